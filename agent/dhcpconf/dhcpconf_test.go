package dhcpconf_test

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weft-sdn/weft/agent/desired"
	"github.com/weft-sdn/weft/agent/dhcpconf"
)

var update = flag.Bool("update", false, "rewrite the golden files")

const (
	network = "eac0ddd6-4af0-4b2e-9ade-e79a485d6fa7"
	subnetA = "2d79537e-66a7-4301-b868-e91092985a48"
	subnetB = "3d79537e-66a7-4301-b868-e91092985a48"
	portA   = "b4bb7dda-11aa-4b2e-9ade-e79a485d6fa7"
	portB   = "c4bb7dda-11aa-4b2e-9ade-e79a485d6fa7"
	portC   = "d4bb7dda-11aa-4b2e-9ade-e79a485d6fa7"
)

func ip(s string) netip.Addr { return netip.MustParseAddr(s) }

// config has two subnets, one of them without a gateway, and three ports.
func config() dhcpconf.Config {
	return dhcpconf.Config{
		NetworkID: network, Namespace: "qdhcp-" + network, Interface: "tapb4bb7dda-11",
		Domain: "weft.example", MTU: 1450,
		Subnets: []dhcpconf.Subnet{
			{ID: subnetB, CIDR: netip.MustParsePrefix("192.168.100.0/22")},
			{
				ID: subnetA, CIDR: netip.MustParsePrefix("10.10.10.0/24"), Gateway: ip("10.10.10.1"),
				DNS:    []netip.Addr{ip("192.0.2.53"), ip("192.0.2.54")},
				Routes: []dhcpconf.Route{{Destination: netip.MustParsePrefix("198.51.100.0/24"), NextHop: ip("10.10.10.254")}},
			},
		},
		Hosts: []dhcpconf.Host{
			{PortID: portB, MAC: "fa:16:3e:00:00:02", Address: ip("192.168.101.7"), SubnetID: subnetB, Hostname: "db-1"},
			{
				PortID: portA, MAC: "FA:16:3E:00:00:01", Address: ip("10.10.10.2"), SubnetID: subnetA,
				ExtraOpts: []dhcpconf.Option{{"bootfile-name", "pxelinux.0"}, {"150", "192.0.2.9"}, {"ntp-server", "192.0.2.1,192.0.2.2"}},
			},
			{PortID: portB, MAC: "fa:16:3e:00:00:02", Address: ip("10.10.10.10"), SubnetID: subnetA},
			{PortID: portC, MAC: "fa:16:3e:00:00:03", Address: ip("10.10.10.3"), SubnetID: subnetA},
		},
	}
}

// text prints a whole desired.DHCP.
func text(d desired.DHCP) string {
	var b strings.Builder
	fmt.Fprintf(&b, "network %s namespace %s\n", d.Network, d.Namespace)
	for _, a := range d.Args {
		fmt.Fprintln(&b, a)
	}
	for _, name := range slices.Sorted(maps.Keys(d.Files)) {
		fmt.Fprintf(&b, "==== %s\n%s", name, d.Files[name])
	}
	return b.String()
}

func render(t *testing.T, c dhcpconf.Config) desired.DHCP {
	t.Helper()
	d, rejected, err := dhcpconf.Render(c)
	if err != nil || len(rejected) > 0 {
		t.Fatalf("rejected %v, error %v", rejected, err)
	}
	return d
}

func TestRenderGivesTheFilesOfR14(t *testing.T) {
	got := text(render(t, config()))
	path := filepath.Join("testdata", "network")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("%s (-want +got):\n%s", path, d)
	}
	accepted(t, render(t, config()))
}

func TestRenderDoesNotDependOnTheOrderOfItsInput(t *testing.T) {
	want := text(render(t, config()))
	c := config()
	slices.Reverse(c.Subnets)
	slices.Reverse(c.Hosts)
	if d := cmp.Diff(want, text(render(t, c))); d != "" {
		t.Error(d)
	}
}

func TestABadHostIsLeftOutAndReported(t *testing.T) {
	for field, spoil := range map[string]func(*dhcpconf.Host){
		"PortID":    func(h *dhcpconf.Host) { h.PortID = "x\ny" },
		"MAC":       func(h *dhcpconf.Host) { h.MAC = "fa:16:3e:00:00:01,10.0.0.1" },
		"Address":   func(h *dhcpconf.Host) { h.Address = ip("10.10.11.2") },
		"SubnetID":  func(h *dhcpconf.Host) { h.SubnetID = portA },
		"Hostname":  func(h *dhcpconf.Host) { h.Hostname = "a,set:b" },
		"ExtraOpts": func(h *dhcpconf.Host) { h.ExtraOpts[0].Value = "a\ndhcp-script=/bin/sh" },
	} {
		c := config()
		spoil(&c.Hosts[1])
		d, rejected, err := dhcpconf.Render(c)
		if err != nil || len(rejected) != 1 || rejected[0].PortID != c.Hosts[1].PortID {
			t.Errorf("%s: rejected %v, error %v", field, rejected, err)
			continue
		}
		if f, ok := dhcpconf.IsFieldError(rejected[0].Err); !ok || !strings.HasPrefix(f.Field, field) || !strings.HasPrefix(f.Object, "port") {
			t.Errorf("%s: %v", field, rejected[0].Err)
		}
		if n := strings.Count(d.Files["host"], "\n"); n != 3 {
			t.Errorf("%s: %d hosts are written, want the 3 others", field, n)
		}
		accepted(t, d)
	}
}

func TestANameThatDnsmasqWouldReadAsSomethingElseIsRefused(t *testing.T) {
	for _, name := range []string{"ignore", "infinite", "3600", "12h", "1w"} {
		c := config()
		c.Hosts[1].Hostname = name
		if d, rejected, err := dhcpconf.Render(c); len(rejected) != 0 || err != nil || !strings.Contains(d.Files["host"], name+".weft.example") {
			t.Errorf("%s with a domain: %v, %v", name, rejected, err)
		}
		c.Domain = ""
		if _, rejected, err := dhcpconf.Render(c); len(rejected) != 1 || err != nil {
			t.Errorf("%s without a domain: %v, %v", name, rejected, err)
		}
	}
	for _, domain := range []string{"0.0.1", "1", "a.b.", ".a", "#", "a b", "a\n", strings.Repeat("a.", 127) + "a"} {
		c := config()
		c.Domain = domain
		if _, _, err := dhcpconf.Render(c); err == nil {
			t.Errorf("domain %q was taken", domain)
		}
	}
}

func TestASecondHostWithAnAddressIsLeftOut(t *testing.T) {
	c := config()
	c.Hosts[2].Address = ip("10.10.10.2")
	_, rejected, err := dhcpconf.Render(c)
	if err != nil || len(rejected) != 1 || rejected[0].PortID != portB || !strings.Contains(rejected[0].Err.Error(), portA) {
		t.Errorf("rejected %v, error %v", rejected, err)
	}
}

func TestABadNetworkOrSubnetIsAnErrorNamingTheField(t *testing.T) {
	for field, spoil := range map[string]func(*dhcpconf.Config){
		"NetworkID":    func(c *dhcpconf.Config) { c.NetworkID = "../x" },
		"Namespace":    func(c *dhcpconf.Config) { c.Namespace = "qdhcp-x" },
		"Interface":    func(c *dhcpconf.Config) { c.Interface = "eth0" },
		"Domain":       func(c *dhcpconf.Config) { c.Domain = "a,b" },
		"MTU":          func(c *dhcpconf.Config) { c.MTU = 60 },
		"LeaseSeconds": func(c *dhcpconf.Config) { c.LeaseSeconds = -1 },
		"Subnets":      func(c *dhcpconf.Config) { c.Subnets = nil },
		"ID":           func(c *dhcpconf.Config) { c.Subnets[0].ID = c.Subnets[1].ID },
		"CIDR":         func(c *dhcpconf.Config) { c.Subnets[0].CIDR = netip.MustParsePrefix("10.10.0.0/16") },
		"Gateway":      func(c *dhcpconf.Config) { c.Subnets[0].Gateway = ip("::1") },
		"DNS":          func(c *dhcpconf.Config) { c.Subnets[0].DNS = make([]netip.Addr, 1) },
		"Routes":       func(c *dhcpconf.Config) { c.Subnets[1].Routes = make([]dhcpconf.Route, 1) },
	} {
		c := config()
		spoil(&c)
		_, _, err := dhcpconf.Render(c)
		if f, ok := dhcpconf.IsFieldError(err); !ok || f.Field != field {
			t.Errorf("%s: error %v", field, err)
		}
	}
}

func TestEveryListedOptionIsTakenByDnsmasq(t *testing.T) {
	values := map[dhcpconf.Kind]string{
		dhcpconf.Text: "a/b:c=d", dhcpconf.Address: "192.0.2.1", dhcpconf.Addresses: "192.0.2.1,192.0.2.2",
		dhcpconf.Byte: "255", dhcpconf.Word: "65535", dhcpconf.Long: "4294967295",
		dhcpconf.Domain: "a.example", dhcpconf.Domains: "a.example,b.example",
	}
	c := config()
	c.Hosts[1].ExtraOpts = nil
	for _, k := range dhcpconf.Options() {
		c.Hosts[1].ExtraOpts = append(c.Hosts[1].ExtraOpts, dhcpconf.Option{Name: k.Name, Value: values[k.Kind]})
		if k.Number != 255 { // dnsmasq knows this one by its name only
			c.Hosts[1].ExtraOpts = append(c.Hosts[1].ExtraOpts, dhcpconf.Option{Name: fmt.Sprint(k.Number), Value: values[k.Kind]})
		}
	}
	accepted(t, render(t, c))
}

// accepted asserts that dnsmasq takes the command line and, as configuration lines, every line of the files: it does
// not read the files themselves when it only tests.
func accepted(t testing.TB, d desired.DHCP) {
	t.Helper()
	if err := tryDnsmasq(t, d); err != nil {
		t.Errorf("dnsmasq refuses: %v\n%s", err, text(d))
	}
}

func tryDnsmasq(t testing.TB, d desired.DHCP) error {
	t.Helper()
	path, err := exec.LookPath("dnsmasq")
	if err != nil {
		t.Fatal("needs dnsmasq: make deps installs it")
	}
	var conf bytes.Buffer
	for file, directive := range map[string]string{"host": "dhcp-host", "opts": "dhcp-option"} {
		for line := range strings.Lines(d.Files[file]) {
			fmt.Fprintf(&conf, "%s=%s", directive, line)
		}
	}
	args := []string{"--test"}
	for _, a := range d.Args {
		if a != "--conf-file=" {
			args = append(args, a)
		}
	}
	cmd := exec.Command(path, append(args, "--conf-file=-")...)
	cmd.Stdin = &conf
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// FuzzRender: whatever the strings, the files have exactly the lines that the accepted objects call for, in exactly the
// fields they have, and dnsmasq takes them.
func FuzzRender(f *testing.F) {
	f.Add("weft.example", "web", "fa:16:3e:00:00:01", "bootfile-name", "pxelinux.0", network, subnetA, portA)
	f.Add("a\nb", "x\ny", "fa:16:3e:00:00:01\n", "66", "a\ndhcp-script=/bin/sh", network+"\n", subnetA+",", portA+" ")
	f.Add("", "", "FA:16:3E:00:00:01", "option:66", `"quoted"`, network, subnetA, portA)
	f.Add("a,b", "a#b", "01:00:5e:00:00:01", "3", "0.0.0.0", network, subnetA, portA)
	f.Add("example", "-x", "fa-16-3e-00-00-01", "26", "0x10", network, subnetA, portA)
	f.Add("example", "ignore", "fa:16:3e:00:00:01", "119", "a.example,b.example", network, subnetA, portA)
	f.Add("example.", "infinite", "fa:16:3e:00:00:01", "17", "%s:@=~", network, subnetA, portA)
	f.Add("1.2.3.4", "10.0.0.1", "fa:16:3e:00:00:01", "15", "#", network, subnetA, portA)
	f.Add(strings.Repeat("a.", 126)+"a", strings.Repeat("h", 63), "fa:16:3e:00:00:01", "67", strings.Repeat("v", 255), network, subnetA, portA)
	f.Fuzz(func(t *testing.T, domain, hostname, mac, option, value, net, sub, port string) {
		c := dhcpconf.Config{
			NetworkID: net, Namespace: "qdhcp-" + net, Interface: "tapb4bb7dda-11", Domain: domain, MTU: 1450,
			Subnets: []dhcpconf.Subnet{{ID: sub, CIDR: netip.MustParsePrefix("10.10.10.0/24"), Gateway: ip("10.10.10.1")}},
			Hosts: []dhcpconf.Host{
				{PortID: port, MAC: mac, Address: ip("10.10.10.2"), SubnetID: sub, Hostname: hostname, ExtraOpts: []dhcpconf.Option{{option, value}}},
				{PortID: portB, MAC: "fa:16:3e:00:00:09", Address: ip("10.10.10.9"), SubnetID: sub},
			},
		}
		d, rejected, err := dhcpconf.Render(c)
		if err != nil {
			return
		}
		hosts := 2 - len(rejected)
		options := 1 // the router
		if strings.Contains(d.Files["host"], ",10.10.10.2\n") {
			options++
		}
		want := map[string]int{"host": hosts, "addn_hosts": hosts, "opts": options}
		for name, lines := range want {
			content := d.Files[name]
			if got := strings.Count(content, "\n"); got != lines || strings.ContainsAny(content, "\r\x00\"'#\\") {
				t.Errorf("%s has %d lines, want %d: %q", name, got, lines, content)
			}
		}
		for line := range strings.Lines(d.Files["host"]) {
			if n := strings.Count(line, ","); n != 2 {
				t.Errorf("host line %q", line)
			}
		}
		accepted(t, d)
	})
}
