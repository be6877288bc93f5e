package check

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/weft-sdn/weft/e2e/lab"
)

// script shows a node as its operator would look at it. Each section begins with a line "@@ <kind> <name>"; one that fails
// ends with "@! <exit code>". A namespace that is no namespace of weft's form is not entered.
const script = `
section() { echo "@@ $1 $2"; shift 2; "$@" 2>&1 || echo "@! $?"; }
vsctl() { section "$1" - ovs-vsctl --timeout=5 --format=json --columns="$2" list "$3"; }
vsctl bridges name,external_ids,fail_mode,datapath_type,ports Bridge
vsctl ports _uuid,name,tag,external_ids,interfaces Port
vsctl interfaces _uuid,name,type,ofport,options,external_ids,error Interface
for b in $(ovs-vsctl --timeout=5 list-br); do
	section flows "$b" ovs-ofctl --timeout=5 -O OpenFlow15 --no-stats --no-names dump-flows "$b"
done
section filters 4 iptables-save
section filters 6 ip6tables-save
section links - ip -j -d link show
for n in $(ls /run/netns 2>/dev/null); do
	case $n in qrouter-*|qdhcp-*) ;; *) continue ;; esac
	section address "$n" ip -n "$n" -j address show
	section route "$n" ip -n "$n" -j route show
	section iptables "$n" ip netns exec "$n" iptables-save
	section forward "$n" ip netns exec "$n" cat /proc/sys/net/ipv4/ip_forward
	section inode "$n" stat -Lc %i "/run/netns/$n"
	section sockets "$n" ip netns exec "$n" ss -Htlnp
done
section marks - ls /var/lib/weft/netns
section dhcp - ls /var/lib/weft/dhcp
for d in /var/lib/weft/dhcp/*/; do
	[ -d "$d" ] && section hosts "$(basename "$d")" cat "$d/host" && section options "$(basename "$d")" cat "$d/opts"
done
for p in /proc/[0-9]*; do
	comm=$(cat "$p/comm" 2>/dev/null)
	[ "$comm" = weft-metadata ] && section metadata "${p#/proc/}" grep Uid: "$p/status"
	[ "$comm" = dnsmasq ] || continue
	section dnsmasq "${p#/proc/}" sh -c "stat -Lc %i $p/ns/net; tr '\\0' '\\n' <$p/cmdline"
done
true
`

// host is one node as it is.
type host struct {
	name       string
	bridges    map[string]*bridge
	ports      map[string]*port  // of Open vSwitch, by name
	links      map[string]string // devices of the host's own namespace -> alias
	namespaces map[string]*namespace
	filters    []string // the lines of iptables-save and ip6tables-save of its own namespace, after "4 " and "6 "
	marks      []string
	dhcpDirs   []string
	hostFiles  map[string]string // by network, as optFiles
	optFiles   map[string]string
	proxies    map[string]string // of metadata, by pid inside the host: the user ids that it has
	dnsmasq    map[string]dnsmasq
	found      findings // what could not be looked at
}

type bridge struct {
	externalIDs        map[string]string
	failMode, datapath string
	flows              []flow
	portNames          map[int]string // by OpenFlow number
	ports              []string
}

// port is a port of Open vSwitch with its one interface.
type port struct {
	name, bridge, kind string
	tag, number        int // 0: none
	options            map[string]string
	externalIDs        map[string]string // the interface's
	portIDs            map[string]string // the port's
	err                string
}

// owned reports whether the port is weft's.
func (p *port) owned() bool {
	return p.externalIDs["weft-owner"] != "" || p.portIDs["weft-owner"] != ""
}

type namespace struct {
	links    map[string]link
	routes   []string // "<destination> via <hop> dev <device>", of protocol static
	iptables []string // the lines of iptables-save that begin with "-A"
	listens  []string // "<address>:<port>" that the metadata proxy listens on
	forward  bool
	inode    string
}

type link struct {
	mac       string
	mtu       int
	addresses []netip.Prefix
	up        bool
}

// dnsmasq is a process, by pid inside the host.
type dnsmasq struct {
	inode string // of its network namespace
	args  []string
}

// observe looks at every node that is on, at all of them at once.
func observe(ctx context.Context, l *lab.Lab) (map[string]*host, error) {
	infos, err := l.Hosts()
	if err != nil {
		return nil, err
	}
	out := map[string]*host{}
	var mu sync.Mutex
	group, ctx := errgroup.WithContext(ctx)
	for _, info := range infos {
		if !info.Node() || !info.On() {
			continue
		}
		group.Go(func() error {
			at, err := l.Host(info.Name)
			if err != nil {
				return err
			}
			text, err := at.Exec(ctx, "sh", "-c", script)
			if err != nil {
				return fmt.Errorf("look at host %s: %w", info.Name, err)
			}
			h, err := readHost(info.Name, text)
			mu.Lock()
			defer mu.Unlock()
			out[info.Name] = h
			return err
		})
	}
	return out, group.Wait()
}

// readHost reads what script printed.
func readHost(name, text string) (*host, error) {
	h := &host{
		name: name, bridges: map[string]*bridge{}, ports: map[string]*port{}, links: map[string]string{},
		namespaces: map[string]*namespace{}, hostFiles: map[string]string{}, optFiles: map[string]string{}, proxies: map[string]string{}, dnsmasq: map[string]dnsmasq{},
	}
	o := ovsTables{}
	var errs []error
	for _, s := range sections(text) {
		if err := h.section(s, &o); err != nil {
			errs = append(errs, fmt.Errorf("host %s: %s %s: %w", name, s.kind, s.name, err))
		}
	}
	return h, errors.Join(errs...)
}

// section is a part of what script prints.
type section struct{ kind, name, text, failed string }

func sections(text string) []section {
	var out []section
	for line := range strings.Lines(text) {
		if head, ok := strings.CutPrefix(line, "@@ "); ok {
			kind, name, _ := strings.Cut(strings.TrimSpace(head), " ")
			out = append(out, section{kind: kind, name: name})
			continue
		}
		if len(out) == 0 {
			continue
		}
		last := &out[len(out)-1]
		if code, ok := strings.CutPrefix(line, "@! "); ok {
			last.failed = strings.TrimSpace(code)
			continue
		}
		last.text += line
	}
	return out
}

func (h *host) section(s section, o *ovsTables) error {
	if s.failed != "" && s.kind != "marks" && s.kind != "dhcp" { // there may be no such folder yet
		h.found.addf(Exact, h.name, "can't look at its %s %s: %s", s.kind, s.name, strings.TrimSpace(s.text))
		return nil
	}
	switch s.kind {
	case "bridges", "ports", "interfaces":
		return o.read(h, s)
	case "flows":
		return h.readFlows(s)
	case "links":
		return h.readLinks(s.text)
	case "address", "route", "iptables", "forward", "inode", "sockets":
		return h.readNamespace(s)
	case "filters":
		for line := range strings.Lines(s.text) {
			if strings.HasPrefix(line, "-A ") {
				h.filters = append(h.filters, s.name+" "+strings.TrimSpace(line))
			}
		}
	case "marks":
		h.marks = lines(s)
	case "dhcp":
		h.dhcpDirs = lines(s)
	case "hosts":
		h.hostFiles[s.name] = s.text
	case "options":
		h.optFiles[s.name] = s.text
	case "metadata":
		h.proxies[s.name] = strings.TrimSpace(s.text)
	case "dnsmasq":
		inode, args, _ := strings.Cut(s.text, "\n")
		h.dnsmasq[s.name] = dnsmasq{inode: inode, args: strings.Split(strings.TrimSuffix(args, "\n"), "\n")}
	default:
		return errors.New("a section that nobody reads")
	}
	return nil
}

func lines(s section) []string {
	if s.failed != "" {
		return nil
	}
	return strings.Fields(s.text)
}

// ipLink is what `ip -j link` and `ip -j address` print of a device (ip(8)).
type ipLink struct {
	Name      string   `json:"ifname"`
	Alias     string   `json:"ifalias"`
	Address   string   `json:"address"`
	MTU       int      `json:"mtu"`
	Flags     []string `json:"flags"`
	Addresses []struct {
		Family string `json:"family"`
		Local  string `json:"local"`
		Length int    `json:"prefixlen"`
		Scope  string `json:"scope"`
	} `json:"addr_info"`
}

func (h *host) readLinks(text string) error {
	var have []ipLink
	if err := json.Unmarshal([]byte(text), &have); err != nil {
		return err
	}
	for _, l := range have {
		h.links[l.Name] = l.Alias
	}
	return nil
}

func (h *host) readNamespace(s section) error {
	n := h.namespaces[s.name]
	if n == nil {
		n = &namespace{links: map[string]link{}}
		h.namespaces[s.name] = n
	}
	switch s.kind {
	case "address":
		return n.readAddresses(s.text)
	case "route":
		return n.readRoutes(s.text)
	case "iptables":
		for line := range strings.Lines(s.text) {
			if strings.HasPrefix(line, "-A ") {
				n.iptables = append(n.iptables, strings.TrimSpace(line))
			}
		}
	case "forward":
		n.forward = strings.TrimSpace(s.text) == "1"
	case "inode":
		n.inode = strings.TrimSpace(s.text)
	case "sockets":
		n.readSockets(s.text)
	}
	return nil
}

// readSockets keeps what the metadata proxy listens on, of what ss(8) prints.
func (n *namespace) readSockets(text string) {
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) > 5 && strings.Contains(f[5], `"weft-metadata"`) {
			n.listens = append(n.listens, f[3])
		}
	}
}

// readAddresses keeps the global IPv4 addresses.
func (n *namespace) readAddresses(text string) error {
	var have []ipLink
	if err := json.Unmarshal([]byte(text), &have); err != nil {
		return err
	}
	for _, l := range have {
		if l.Name == "lo" {
			continue
		}
		made := link{mac: l.Address, mtu: l.MTU}
		for _, f := range l.Flags {
			made.up = made.up || f == "UP"
		}
		for _, a := range l.Addresses {
			ip, err := netip.ParseAddr(a.Local)
			if err != nil {
				return err
			}
			if a.Family == "inet" && a.Scope == "global" {
				made.addresses = append(made.addresses, netip.PrefixFrom(ip, a.Length))
			}
		}
		n.links[l.Name] = made
	}
	return nil
}

func (n *namespace) readRoutes(text string) error {
	var have []struct {
		Destination string `json:"dst"`
		Gateway     string `json:"gateway"`
		Device      string `json:"dev"`
		Protocol    string `json:"protocol"`
	}
	if err := json.Unmarshal([]byte(text), &have); err != nil {
		return err
	}
	for _, r := range have {
		if r.Protocol == "static" {
			n.routes = append(n.routes, routeText(r.Destination, r.Gateway, r.Device))
		}
	}
	return nil
}

func routeText(destination, via, device string) string {
	if p, err := netip.ParsePrefix(destination); err == nil && p.Bits() == 0 {
		destination = "default"
	}
	return fmt.Sprintf("%s via %s dev %s", strings.TrimSuffix(destination, "/32"), via, device)
}
