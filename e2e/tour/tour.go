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
	"os"
	"os/exec"
	"path/filepath"
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
		{"two tenants with the same addresses do not see each other", func(ctx context.Context, t *Tour) error { return t.isolation(ctx) }},
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

// weft runs a command of the CLI against the lab and returns what it prints.
func (t *Tour) weft(ctx context.Context, args ...string) (string, error) {
	bin, err := t.lab.Bin()
	if err != nil {
		return "", err
	}
	env, err := t.lab.Env()
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "weft"), args...)
	cmd.Env = os.Environ()
	for _, k := range slices.Sorted(maps.Keys(env)) {
		cmd.Env = append(cmd.Env, k+"="+env[k])
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("weft %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return string(out), nil
}

// do shows a command and runs it.
func (t *Tour) do(ctx context.Context, command string) error {
	t.printf("  $ weft %s", command)
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
	t.printf("  $ weft %s", command)
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
			t.proved("%s pings %s: %s", from, to, stats)
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

// until waits for a condition.
func until(ctx context.Context, what string, holds func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
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
