// Package tour walks through everything weft is for, on a lab of simulated hosts, with real packets: an operator's
// commands, and after each the proof that they did what they say. `make demo` shows it, the scenarios of package e2e run
// it. It uses weft as an operator does, through the command line, and looks at hosts and packets only to prove things.
package tour

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/weft-sdn/weft/e2e/lab"
	"github.com/weft-sdn/weft/e2e/lab/echo"
)

// Step is one stop of the tour.
type Step struct {
	Title string
	Run   func(context.Context, *Tour) error
}

// Tour is a walk under way. It is not safe for concurrent use.
type Tour struct {
	lab *lab.Lab
	out io.Writer
	vms map[string]*lab.VM
	// user is who gives the commands, by their name in logins; "" is the operator.
	user   string
	logins map[string]map[string]string
	// before is what each node looked like when the tour began.
	before map[string]string
}

// New begins a tour of a lab with at least two network nodes, two compute nodes and two externals. What happens is
// written to out.
func New(l *lab.Lab, out io.Writer) *Tour {
	return &Tour{lab: l, out: out, vms: map[string]*lab.VM{}, before: map[string]string{}}
}

// Steps are all steps in their order; each relies on those before it.
func Steps() []Step {
	return []Step{
		{"an empty fleet: nodes register, segments get their ranges", func(ctx context.Context, t *Tour) error { return t.fleet(ctx) }},
		{"a VLAN network: DHCP, ping across nodes, the tag on the wire", func(ctx context.Context, t *Tour) error { return t.vlanNetwork(ctx) }},
		{"a VXLAN network", func(ctx context.Context, t *Tour) error { return t.vxlanNetwork(ctx) }},
		{"a GRE network", func(ctx context.Context, t *Tour) error { return t.greNetwork(ctx) }},
		{"two tenants with credentials of their own, and the same addresses", func(ctx context.Context, t *Tour) error { return t.tenants(ctx) }},
		{"what is another tenant's does not exist", func(ctx context.Context, t *Tour) error { return t.strangers(ctx) }},
		{"two tenants on one network: security groups say who is let in", func(ctx context.Context, t *Tour) error { return t.groups(ctx) }},
		{"an attack on the neighbour: nothing of it arrives", func(ctx context.Context, t *Tour) error { return t.attacks(ctx) }},
		{"external networks: ext1 untagged, ext2 on VLAN 1998", func(ctx context.Context, t *Tour) error { return t.externals(ctx) }},
		{"routers to two outsides on one network node", func(ctx context.Context, t *Tour) error { return t.routers(ctx) }},
		{"a floating IP: reached from outside, seen under the fixed address, outbound under the floating one", func(ctx context.Context, t *Tour) error { return t.floatingIP(ctx) }},
		{"the floating IP moves to another VM, live", func(ctx context.Context, t *Tour) error { return t.moveFloatingIP(ctx) }},
		{"two subnets routed by one router", func(ctx context.Context, t *Tour) error { return t.twoSubnets(ctx) }},
		{"a subnet with a part of its addresses in the pool", func(ctx context.Context, t *Tour) error { return t.partialPool(ctx) }},
		{"deletions while traffic runs: neighbours undisturbed", func(ctx context.Context, t *Tour) error { return t.deletions(ctx) }},
		{"agents killed and restarted under traffic: nothing lost, nothing touched", func(ctx context.Context, t *Tour) error { return t.agentRestart(ctx) }},
		{"everything deleted: the hosts are as before", func(ctx context.Context, t *Tour) error { return t.wholeDeletion(ctx) }},
	}
}

func (t *Tour) printf(format string, args ...any) { fmt.Fprintf(t.out, format+"\n", args...) }

// proved states what has just been shown.
func (t *Tour) proved(format string, args ...any) { t.printf("  ✔ "+format, args...) }

// as is the tour with its commands in somebody else's name.
func (t *Tour) as(user string) *Tour {
	other := *t
	other.user = user
	return &other
}

// commandError is what a command says that fails.
type commandError struct {
	command, said string
	err           error
}

func (e *commandError) Error() string { return fmt.Sprintf("%s: %s: %s", e.command, e.err, e.said) }

func (e *commandError) Unwrap() error { return e.err }

// weft runs a command of the CLI on the controller's host and returns what it prints. The error is a *commandError when the
// command fails.
func (t *Tour) weft(ctx context.Context, args ...string) (string, error) {
	env := t.logins[t.user]
	if t.user == "" {
		var err error
		if env, err = t.lab.Env(); err != nil {
			return "", err
		}
	}
	argv := []string{"env"}
	for _, k := range slices.Sorted(maps.Keys(env)) {
		argv = append(argv, k+"="+env[k])
	}
	ctl1, err := t.lab.Host("ctl1")
	if err != nil {
		return "", err
	}
	cmd, err := ctl1.Command(ctx, append(append(argv, "weft"), args...)...)
	if err != nil {
		return "", err
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", &commandError{"weft " + strings.Join(args, " "), strings.TrimSpace(stderr.String()), err}
	}
	return string(out), nil
}

// show writes a command as it is given.
func (t *Tour) show(command string) { t.printf("  %s$ weft %s", t.user, command) }

// do shows a command and runs it.
func (t *Tour) do(ctx context.Context, command string) error {
	t.show(command)
	_, err := t.weft(ctx, strings.Fields(command)...)
	return err
}

// all does several commands, up to the first that fails.
func (t *Tour) all(ctx context.Context, commands ...string) error {
	for _, c := range commands {
		if err := t.do(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

// object is the JSON of an API object.
type object map[string]any

func (o object) text(field string) string {
	s, _ := o[field].(string)
	return s
}

// get reads objects as JSON.
func get[T any](ctx context.Context, t *Tour, command string) (T, error) {
	var v T
	out, err := t.weft(ctx, append(strings.Fields(command), "-o", "json")...)
	if err != nil {
		return v, err
	}
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		return v, fmt.Errorf("weft %s printed no JSON: %w: %.200s", command, err, out)
	}
	return v, nil
}

// vm creates a port on a network and a VM on a host that is plugged into it, and returns its address.
func (t *Tour) vm(ctx context.Context, name, host, network string, flags ...string) (netip.Addr, error) {
	command := strings.Join(append([]string{"port", "create", name, "--network", network}, flags...), " ")
	t.show(command)
	port, err := get[object](ctx, t, command)
	if err != nil {
		return netip.Addr{}, err
	}
	vm, err := t.lab.AddVM(ctx, lab.VMSpec{
		Name: name, Host: host, Port: lab.Port{ID: port.text("id"), MAC: port.text("mac_address")},
	})
	if err != nil {
		return netip.Addr{}, err
	}
	t.vms[name] = vm
	address, err := t.address(ctx, name)
	if err != nil {
		return netip.Addr{}, err
	}
	t.proved("VM %s on %s got %s by DHCP", name, host, address)
	return address, nil
}

// address is the VM's address, which must be the one its port has.
func (t *Tour) address(ctx context.Context, name string) (netip.Addr, error) {
	port, err := get[struct {
		FixedIPs []struct {
			IP netip.Addr `json:"ip_address"`
		} `json:"fixed_ips"`
	}](ctx, t, "port show "+t.vms[name].Spec.Port.ID)
	if err != nil {
		return netip.Addr{}, err
	}
	if len(port.FixedIPs) == 0 {
		return netip.Addr{}, fmt.Errorf("port %s has no address", name)
	}
	out, err := t.vms[name].Exec(ctx, "ip", "-4", "-o", "addr", "show", "dev", "eth0")
	if err != nil {
		return netip.Addr{}, err
	}
	if !strings.Contains(out, " "+port.FixedIPs[0].IP.String()+"/") {
		return netip.Addr{}, fmt.Errorf("VM %s has %q, its port has %s", name, out, port.FixedIPs[0].IP)
	}
	return port.FixedIPs[0].IP, nil
}

// reach waits until a place gets ten answers in a row from an address. One series may lose an echo: the userspace datapath
// drops one now and then while a port joins a bridge (docs/failure.md).
func (t *Tour) reach(ctx context.Context, from lab.Space, to netip.Addr) error {
	waiting, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		if _, err := from.AwaitPing(waiting, to); err != nil {
			return fmt.Errorf("%s does not reach %s: %w", from, to, err)
		}
		stats, err := from.Ping(waiting, to, echo.Options{Count: 10})
		if err != nil {
			return err
		}
		if stats.Lost() == 0 {
			t.proved("%s pings %s: %d of %d answered, round trip %v to %v", from, to, stats.Sent-stats.Lost(), stats.Sent,
				stats.MinRTT.Round(10*time.Microsecond), stats.MaxRTT.Round(10*time.Microsecond))
			return nil
		}
	}
}

// captured runs something while frames that match a filter are recorded, and returns those that arrived within moments
// after it.
func captured(ctx context.Context, at lab.Space, device, filter string, during func() error) ([]string, error) {
	c, err := at.StartCapture(ctx, lab.CaptureOptions{Device: device, Filter: filter, Limit: 1000})
	if err != nil {
		return nil, err
	}
	err = during()
	settle, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	<-settle.Done() // late frames count too: the capture must show what is absent as well
	packets, stopErr := c.Stop()
	if err != nil {
		return nil, err
	}
	return packets, stopErr
}

// sees runs something and wants at least one frame that matches.
func (t *Tour) sees(ctx context.Context, at lab.Space, device, filter string, during func() error) error {
	packets, err := captured(ctx, at, device, filter, during)
	if err != nil {
		return err
	}
	if len(packets) == 0 {
		return fmt.Errorf("no frame %q on %s of %s", filter, device, at)
	}
	t.proved("on %s: %s", device, packets[0])
	return nil
}

// patience is how long the tour waits for anything.
const patience = 15 * time.Second

// until waits for a condition.
func until(ctx context.Context, what string, holds func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, err := holds()
		if ok {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited in vain until %s: %w", what, err)
		case <-tick.C:
		}
	}
}
