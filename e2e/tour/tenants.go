package tour

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/weft-sdn/weft/e2e/lab"
	"github.com/weft-sdn/weft/e2e/lab/echo"
)

// tenants gives two people the credentials of a project each, and networks with the same addresses. The neighbour's capture
// is the proof that these are apart: a ping that fails proves little.
func (t *Tour) tenants(ctx context.Context) error {
	users := []lab.User{
		{Name: "alice", Role: "member", Projects: []string{"red"}},
		{Name: "bob", Role: "member", Projects: []string{"blue"}},
	}
	logins, err := t.lab.Enrol(users...)
	if err != nil {
		return err
	}
	t.logins = logins
	t.proved("alice of project red and bob of project blue are known by a token each, over TLS")
	for _, u := range users {
		if err := t.as(u.Name).twoVMs(ctx, u.Projects[0]); err != nil {
			return err
		}
	}
	for _, victim := range []string{"blue-1", "blue-2"} {
		packets, err := captured(ctx, t.vms[victim].Space, "eth0", "host 10.99.0.11 or host 10.99.0.12 or host 10.99.0.99", func() error {
			if err := t.reach(ctx, t.vms["red-1"].Space, netip.MustParseAddr("10.99.0.12")); err != nil {
				return err
			}
			// Nobody has .99: the request for it is flooded through all of red.
			_, err := t.vms["red-1"].Ping(ctx, netip.MustParseAddr("10.99.0.99"), echo.Options{Count: 3})
			return err
		})
		if err != nil {
			return err
		}
		if len(packets) > 0 {
			return fmt.Errorf("%s saw a frame of the other tenant: %s", victim, packets[0])
		}
	}
	t.proved("red's pings and floods: no frame at either VM of blue")
	return t.reach(ctx, t.vms["blue-1"].Space, netip.MustParseAddr("10.99.0.12"))
}

// twoVMs makes a network with a VM on each compute node.
func (t *Tour) twoVMs(ctx context.Context, network string) error {
	if err := t.all(ctx, "network create "+network, "subnet create sub-"+network+" --network "+network+" --cidr 10.99.0.0/24"); err != nil {
		return err
	}
	for i, host := range []string{"cmp1", "cmp2"} {
		if _, err := t.vm(ctx, fmt.Sprintf("%s-%d", network, i+1), host, network, "--ip", fmt.Sprintf("10.99.0.1%d", i+1)); err != nil {
			return err
		}
	}
	return nil
}

// strangers has bob ask for what is alice's, and for what is the operators'.
func (t *Tour) strangers(ctx context.Context) error {
	red, err := get[object](ctx, t.as("alice"), "network show red")
	if err != nil {
		return err
	}
	port := t.vms["red-1"].Spec.Port.ID
	bob := t.as("bob")
	for _, try := range []struct{ command, want string }{
		{"network show " + red.text("id"), "does not exist"},
		{"network delete " + red.text("id"), "does not exist"},
		{"port create mine --network " + red.text("id"), "does not exist"},
		{"port update " + port + " --no-port-security", "does not exist"},
		{"network create mine --project red", "can't make anything in project red"},
		{"node list", "takes an operator"},
	} {
		if err := bob.refused(ctx, try.command, try.want); err != nil {
			return err
		}
	}
	return nil
}

// refused shows a command that is refused, and with what words.
func (t *Tour) refused(ctx context.Context, command, want string) error {
	t.show(command)
	_, err := t.weft(ctx, strings.Fields(command)...)
	var failed *commandError
	if !errors.As(err, &failed) || !strings.Contains(failed.said, want) {
		return fmt.Errorf("weft %s: %w; want it refused with %q", command, err, want)
	}
	t.proved("%s", failed.said)
	return nil
}

// groups has alice and bob on a network that the operator lends to all projects, where alice's security groups decide what
// bob may send to her.
func (t *Tour) groups(ctx context.Context) error {
	if err := t.all(ctx, "network create commons --shared", "subnet create sub-commons --network commons --cidr 10.66.0.0/24"); err != nil {
		return err
	}
	alice, bob := t.as("alice"), t.as("bob")
	shop, err := alice.vm(ctx, "shop", "cmp1", "commons")
	if err != nil {
		return err
	}
	if _, err := alice.vm(ctx, "till", "cmp2", "commons"); err != nil {
		return err
	}
	snoop, err := bob.vm(ctx, "snoop", "cmp2", "commons")
	if err != nil {
		return err
	}
	if err := t.reach(ctx, t.vms["till"].Space, shop); err != nil {
		return err
	}
	stop, err := t.serve("shop", netip.AddrPortFrom(shop, 80))
	if err != nil {
		return err
	}
	defer stop()
	if err := t.shut(ctx, shop, "a default group lets in its own members only"); err != nil {
		return err
	}
	rule, err := alice.open(ctx, snoop)
	if err != nil {
		return err
	}
	if err := t.fetches(ctx, shop); err != nil {
		return err
	}
	if err := alice.do(ctx, "security-group rule delete "+rule); err != nil {
		return err
	}
	return t.shut(ctx, shop, "without the rule the shop is shut")
}

// open lets an address in at the shop's port 80, and returns the rule's id.
func (t *Tour) open(ctx context.Context, from netip.Addr) (rule string, err error) {
	if err := t.do(ctx, "security-group create web"); err != nil {
		return "", err
	}
	command := fmt.Sprintf("security-group rule create web --direction ingress --protocol tcp --port 80 --remote-cidr %s/32", from)
	t.show(command)
	made, err := get[object](ctx, t, command)
	if err != nil {
		return "", err
	}
	return made.text("id"), t.do(ctx, "port update shop --security-group default --security-group web")
}

// serve has a VM answer HTTP until stop is called.
func (t *Tour) serve(vm string, at netip.AddrPort) (stop func(), err error) {
	var l net.Listener
	if err := t.vms[vm].Do(func() (err error) {
		l, err = net.Listen("tcp4", at.String())
		return err
	}); err != nil {
		return nil, err
	}
	server := &http.Server{ReadHeaderTimeout: patience, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "welcome to the "+vm)
	})}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(l) // until it is closed
	}()
	return func() {
		_ = server.Close()
		<-served
	}, nil
}

// fetches wants bob's VM to get the shop's page, soon.
func (t *Tour) fetches(ctx context.Context, shop netip.Addr) error {
	var page string
	err := until(ctx, "snoop gets the shop's page", func() (_ bool, err error) {
		page, err = t.curl(ctx, shop)
		return err == nil, err
	})
	if err == nil {
		t.proved("cmp2/vm-snoop: curl http://%s/ says %q", shop, page)
	}
	return err
}

func (t *Tour) curl(ctx context.Context, shop netip.Addr) (string, error) {
	return t.vms["snoop"].Exec(ctx, "curl", "-s", "-S", "--max-time", "0.5", fmt.Sprintf("http://%s/", shop))
}

// shut wants nothing of what bob's VM sends to the shop to arrive there, soon.
func (t *Tour) shut(ctx context.Context, shop netip.Addr, why string) error {
	filter := "(icmp or tcp) and ether src " + t.vms["snoop"].Spec.Port.MAC
	err := until(ctx, "the shop is shut", func() (bool, error) {
		packets, err := captured(ctx, t.vms["shop"].Space, "eth0", filter, func() error {
			_, err := t.vms["snoop"].Ping(ctx, shop, echo.Options{Count: 3})
			if _, fetched := t.curl(ctx, shop); fetched == nil {
				err = errors.Join(err, errors.New("snoop has got the shop's page"))
			}
			return err
		})
		return err == nil && len(packets) == 0, err
	})
	if err == nil {
		t.proved("%s: no packet of cmp2/vm-snoop's ping and curl arrives there", why)
	}
	return err
}

// attack is something that a VM tries.
type attack struct {
	what string
	// frames is what it sends, in the words of pcap-filter(7).
	frames string
	script string
}

// attacks has bob's VM pose as alice's, and as a DHCP server. till lets its own group in, of which shop is: whoever could send
// under shop's address would be let in too.
func (t *Tour) attacks(ctx context.Context) error {
	shop, err := t.address(ctx, "shop")
	if err != nil {
		return err
	}
	till, err := t.address(ctx, "till")
	if err != nil {
		return err
	}
	if _, err := t.vms["snoop"].Exec(ctx, "sh", "-c", fmt.Sprintf("ip addr add %s/32 dev lo; ip neigh replace %s lladdr %s dev eth0",
		shop, till, t.vms["till"].Spec.Port.MAC)); err != nil {
		return err
	}
	for _, a := range []attack{
		{"forged ARP: the shop's address is at snoop's MAC", "arp and src host " + shop.String(), fmt.Sprintf("arping -q -U -c 3 -w 1 -I eth0 -s %s %s", shop, shop)},
		{"forged address: a ping in the shop's name", "icmp and src host " + shop.String(), fmt.Sprintf("ping -q -c 3 -i 0.01 -W 1 -I %s %s", shop, till)},
		{"a DHCP server of its own", "udp src port 67", "for n in 1 2 3; do echo lease | socat - UDP4-SENDTO:255.255.255.255:68,broadcast,bind=:67,so-bindtodevice=eth0; done"},
	} {
		if err := t.foiled(ctx, "snoop", []string{"shop", "till"}, a); err != nil {
			return err
		}
	}
	return t.reach(ctx, t.vms["till"].Space, shop)
}

// foiled wants an attack to leave its VM and to arrive nowhere. What its commands make of that does not matter.
func (t *Tour) foiled(ctx context.Context, from string, victims []string, a attack) error {
	seen := map[string][]string{}
	try := func() error { _, _ = t.vms[from].Exec(ctx, "sh", "-c", a.script); return ctx.Err() }
	for _, at := range append(slices.Clone(victims), from) {
		inner := try
		try = func() (err error) {
			seen[at], err = captured(ctx, t.vms[at].Space, "eth0", a.frames+" and ether src "+t.vms[from].Spec.Port.MAC, inner)
			return err
		}
	}
	t.printf("  %s# %s", from, a.script)
	if err := try(); err != nil {
		return err
	}
	if len(seen[from]) == 0 {
		return fmt.Errorf("%s has sent nothing: this proves nothing", from)
	}
	for _, victim := range victims {
		if len(seen[victim]) > 0 {
			return fmt.Errorf("%s: %s saw %s", a.what, victim, seen[victim][0])
		}
	}
	t.proved("%s: snoop sent %d frames, %s saw none", a.what, len(seen[from]), strings.Join(victims, " and "))
	return nil
}
