package chaos

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/weft-sdn/weft/e2e/lab"
)

// Generator makes a sequence of steps from a seed. It keeps a picture of what the steps so far have made, as if each had
// succeeded, so that most of them make sense. It is pure.
type Generator struct {
	rng    *rand.Rand
	hosts  []lab.HostInfo
	number int // of the last name
	// What there is, by name.
	networks map[string]*network
	subnets  map[string]*subnet
	ports    map[string]*port
	routers  map[string]*router
	floating map[string]string // -> port
	vms      map[string]*vm

	apiOnly bool
	broken  *fault
}

type network struct{ up bool }

type subnet struct {
	network, router string
}

type port struct {
	subnet, host string
	up           bool
}

type router struct{ up, gateway bool }

type vm struct{ host, port string }

// fault is what is broken now, and for how many steps more.
type fault struct {
	host string
	mend Step
	left int
}

// The most of each that there is at a time: enough for everything to meet everything, few enough for a small machine.
const (
	maxNetworks = 10
	maxSubnets  = 14
	maxPorts    = 40
	maxRouters  = 8
	maxFloating = 10
	maxVMs      = 14
)

// NewGenerator begins a sequence for a lab's hosts.
func NewGenerator(seed uint64, hosts []lab.HostInfo, apiOnly bool) *Generator {
	return &Generator{
		rng: rand.New(rand.NewPCG(seed, 0)), hosts: hosts, apiOnly: apiOnly,
		networks: map[string]*network{}, subnets: map[string]*subnet{}, ports: map[string]*port{},
		routers: map[string]*router{}, floating: map[string]string{}, vms: map[string]*vm{},
	}
}

// faultRate is how many steps there are to one that breaks something.
const faultRate = 12

// Next is the next step.
func (g *Generator) Next() Step {
	if g.broken != nil {
		if g.broken.left--; g.broken.left <= 0 {
			step, _ := g.Mend()
			return step
		}
	}
	if g.broken == nil && !g.apiOnly && g.rng.IntN(faultRate) == 0 {
		if step, ok := g.fault(); ok {
			return step
		}
	}
	kinds := g.kinds()
	for {
		pick := g.rng.IntN(total(kinds))
		for _, k := range kinds {
			if pick -= k.weight; pick < 0 {
				if step, ok := k.make(); ok {
					return step
				}
				break
			}
		}
	}
}

// Mend is the step that mends what is broken; false when nothing is.
func (g *Generator) Mend() (Step, bool) {
	if g.broken == nil {
		return Step{}, false
	}
	step := g.broken.mend
	g.broken = nil
	return step, true
}

// kind is a kind of step: how often, and how it is made; false when there is nothing to do it to.
type kind struct {
	weight int
	make   func() (Step, bool)
}

func total(kinds []kind) int {
	sum := 0
	for _, k := range kinds {
		sum += k.weight
	}
	return sum
}

func (g *Generator) kinds() []kind {
	return []kind{
		{4, g.createNetwork},
		{2, g.deleteNetwork},
		{1, g.toggleNetwork},
		{5, g.createSubnet},
		{2, g.deleteSubnet},
		{14, g.createPort},
		{3, g.togglePort},
		{3, g.movePort},
		{9, g.deletePort},
		{4, g.createRouter},
		{1, g.toggleRouter},
		{1, g.resizeRouter},
		{2, g.moveRouter},
		{2, g.deleteRouter},
		{6, g.addInterface},
		{3, g.removeInterface},
		{4, g.setGateway},
		{2, g.clearGateway},
		{6, g.createFloating},
		{2, g.moveFloating},
		{4, g.deleteFloating},
		{8, g.plug},
		{6, g.unplug},
		{2, g.wait},
	}
}

func (g *Generator) name(prefix string) string {
	g.number++
	return fmt.Sprintf("%s%d", prefix, g.number)
}

// choose picks one of a map's names that fits, always the same for the same map and state of the source.
func choose[T any](g *Generator, from map[string]T, fits func(string, T) bool) (string, bool) {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(from)) {
		if fits(name, from[name]) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return "", false
	}
	return names[g.rng.IntN(len(names))], true
}

func anyOf[T any](string, T) bool { return true }

// has reports whether one of a map's values is of a kind.
func has[T any](from map[string]T, is func(T) bool) bool {
	for _, x := range from {
		if is(x) {
			return true
		}
	}
	return false
}

func (g *Generator) createNetwork() (Step, bool) {
	if len(g.networks) >= maxNetworks {
		return Step{}, false
	}
	s := Step{Op: CreateNetwork, Name: g.name("n"), Of: []string{"vxlan", "vxlan", "vlan", "gre"}[g.rng.IntN(4)]}
	g.networks[s.Name] = &network{up: true}
	return s, true
}

func (g *Generator) deleteNetwork() (Step, bool) {
	name, ok := choose(g, g.networks, func(name string, _ *network) bool {
		return !has(g.subnets, func(s *subnet) bool { return s.network == name })
	})
	delete(g.networks, name)
	return Step{Op: DeleteNetwork, Name: name}, ok
}

func (g *Generator) toggleNetwork() (Step, bool) {
	name, ok := choose(g, g.networks, anyOf)
	if ok {
		g.networks[name].up = !g.networks[name].up
		return Step{Op: ToggleNetwork, Name: name, Up: g.networks[name].up}, true
	}
	return Step{}, false
}

func (g *Generator) createSubnet() (Step, bool) {
	of, ok := choose(g, g.networks, anyOf)
	if !ok || len(g.subnets) >= maxSubnets {
		return Step{}, false
	}
	s := Step{Op: CreateSubnet, Name: g.name("s"), Of: of, Up: g.rng.IntN(5) > 0}
	s.Number = g.number
	g.subnets[s.Name] = &subnet{network: of}
	return s, true
}

func (g *Generator) deleteSubnet() (Step, bool) {
	name, ok := choose(g, g.subnets, func(name string, s *subnet) bool {
		return s.router == "" && !has(g.ports, func(p *port) bool { return p.subnet == name })
	})
	delete(g.subnets, name)
	return Step{Op: DeleteSubnet, Name: name}, ok
}

func (g *Generator) nodes(kinds ...lab.Kind) []string {
	var out []string
	for _, h := range g.hosts {
		if slices.Contains(kinds, h.Kind) {
			out = append(out, h.Name)
		}
	}
	return out
}

func (g *Generator) compute() string {
	nodes := g.nodes(lab.Compute)
	return nodes[g.rng.IntN(len(nodes))]
}

func (g *Generator) createPort() (Step, bool) {
	of, ok := choose(g, g.subnets, anyOf)
	if !ok || len(g.ports) >= maxPorts {
		return Step{}, false
	}
	s := Step{Op: CreatePort, Name: g.name("p"), Of: of}
	if g.rng.IntN(3) == 0 {
		s.Host = g.compute()
	}
	g.ports[s.Name] = &port{subnet: of, host: s.Host, up: true}
	return s, true
}

func (g *Generator) togglePort() (Step, bool) {
	name, ok := choose(g, g.ports, anyOf)
	if ok {
		g.ports[name].up = !g.ports[name].up
		return Step{Op: TogglePort, Name: name, Up: g.ports[name].up}, true
	}
	return Step{}, false
}

func (g *Generator) movePort() (Step, bool) {
	name, ok := choose(g, g.ports, anyOf)
	if !ok {
		return Step{}, false
	}
	s := Step{Op: MovePort, Name: name}
	if g.rng.IntN(3) > 0 {
		s.Host = g.compute()
	}
	g.ports[name].host = s.Host
	return s, true
}

// deletePort deletes a port whether or not a VM is plugged, and whatever floating IP leads to it.
func (g *Generator) deletePort() (Step, bool) {
	name, ok := choose(g, g.ports, anyOf)
	delete(g.ports, name)
	return Step{Op: DeletePort, Name: name}, ok
}

func (g *Generator) createRouter() (Step, bool) {
	if len(g.routers) >= maxRouters {
		return Step{}, false
	}
	s := Step{Op: CreateRouter, Name: g.name("r"), Number: g.rng.IntN(4)}
	g.routers[s.Name] = &router{up: true}
	return s, true
}

func (g *Generator) toggleRouter() (Step, bool) {
	name, ok := choose(g, g.routers, anyOf)
	if ok {
		g.routers[name].up = !g.routers[name].up
		return Step{Op: ToggleRouter, Name: name, Up: g.routers[name].up}, true
	}
	return Step{}, false
}

func (g *Generator) resizeRouter() (Step, bool) {
	name, ok := choose(g, g.routers, anyOf)
	return Step{Op: ResizeRouter, Name: name, Number: 1 + g.rng.IntN(3)}, ok
}

func (g *Generator) moveRouter() (Step, bool) {
	name, ok := choose(g, g.routers, anyOf)
	nodes := g.nodes(lab.Network)
	return Step{Op: MoveRouter, Name: name, Host: nodes[g.rng.IntN(len(nodes))]}, ok
}

func (g *Generator) deleteRouter() (Step, bool) {
	name, ok := choose(g, g.routers, func(name string, _ *router) bool {
		return !has(g.subnets, func(s *subnet) bool { return s.router == name })
	})
	delete(g.routers, name)
	return Step{Op: DeleteRouter, Name: name}, ok
}

func (g *Generator) addInterface() (Step, bool) {
	to, ok := choose(g, g.routers, anyOf)
	of, free := choose(g, g.subnets, func(_ string, s *subnet) bool { return s.router == "" })
	if !ok || !free {
		return Step{}, false
	}
	g.subnets[of].router = to
	return Step{Op: AddInterface, Name: to, Of: of}, true
}

// behind reports whether a floating IP leads to a port on a subnet.
func (g *Generator) behind(subnet string) bool {
	return has(g.floating, func(name string) bool { p := g.ports[name]; return p != nil && p.subnet == subnet })
}

func (g *Generator) removeInterface() (Step, bool) {
	of, ok := choose(g, g.subnets, func(name string, s *subnet) bool { return s.router != "" && !g.behind(name) })
	if !ok {
		return Step{}, false
	}
	step := Step{Op: RemoveInterface, Name: g.subnets[of].router, Of: of}
	g.subnets[of].router = ""
	return step, true
}

func (g *Generator) setGateway() (Step, bool) {
	name, ok := choose(g, g.routers, anyOf)
	if !ok {
		return Step{}, false
	}
	g.routers[name].gateway = true
	return Step{Op: SetGateway, Name: name, Up: g.rng.IntN(4) > 0}, true
}

func (g *Generator) clearGateway() (Step, bool) {
	name, ok := choose(g, g.routers, func(name string, r *router) bool {
		return r.gateway && !has(g.floating, func(p string) bool { return g.routerOf(p) == name })
	})
	if ok {
		g.routers[name].gateway = false
	}
	return Step{Op: ClearGateway, Name: name}, ok
}

// routerOf is the router that a port is behind; "" when none.
func (g *Generator) routerOf(name string) string {
	p := g.ports[name]
	if p == nil || g.subnets[p.subnet] == nil {
		return ""
	}
	return g.subnets[p.subnet].router
}

// reachable picks a port that a floating IP can lead to.
func (g *Generator) reachable() (string, bool) {
	return choose(g, g.ports, func(name string, _ *port) bool {
		r := g.routers[g.routerOf(name)]
		return r != nil && r.gateway && !has(g.floating, func(p string) bool { return p == name })
	})
}

func (g *Generator) createFloating() (Step, bool) {
	to, ok := g.reachable()
	if !ok || len(g.floating) >= maxFloating {
		return Step{}, false
	}
	s := Step{Op: CreateFloating, Name: g.name("f"), To: to}
	g.floating[s.Name] = to
	return s, true
}

func (g *Generator) moveFloating() (Step, bool) {
	name, ok := choose(g, g.floating, anyOf)
	to, found := g.reachable()
	if !ok || !found {
		return Step{}, false
	}
	if g.rng.IntN(3) == 0 {
		to = "" // to nobody
	}
	g.floating[name] = to
	return Step{Op: MoveFloating, Name: name, To: to}, true
}

func (g *Generator) deleteFloating() (Step, bool) {
	name, ok := choose(g, g.floating, anyOf)
	delete(g.floating, name)
	return Step{Op: DeleteFloating, Name: name}, ok
}

// sound reports whether VMs can come and go on a host now.
func (g *Generator) sound(host string) bool { return g.broken == nil || g.broken.host != host }

// plug brings a VM up on the port's host, or on another: then it must not be wired.
func (g *Generator) plug() (Step, bool) {
	name, ok := choose(g, g.ports, func(name string, _ *port) bool {
		return !has(g.vms, func(v *vm) bool { return v.port == name })
	})
	if !ok || len(g.vms) >= maxVMs {
		return Step{}, false
	}
	host := g.compute()
	if want := g.ports[name].host; want != "" && g.rng.IntN(6) > 0 {
		host = want
	}
	if !g.sound(host) {
		return Step{}, false
	}
	s := Step{Op: Plug, Name: g.name("v"), Of: name, Host: host}
	g.vms[s.Name] = &vm{host, name}
	return s, true
}

func (g *Generator) unplug() (Step, bool) {
	name, ok := choose(g, g.vms, func(_ string, v *vm) bool { return g.sound(v.host) })
	delete(g.vms, name)
	return Step{Op: Unplug, Name: name}, ok
}

func (g *Generator) wait() (Step, bool) {
	return Step{Op: Wait, For: time.Duration(1+g.rng.IntN(500)) * time.Millisecond}, true
}

// fault breaks something that exists on a host of a random kind.
func (g *Generator) fault() (Step, bool) {
	h := g.hosts[g.rng.IntN(len(g.hosts))]
	steps := 1 + g.rng.IntN(20)
	var begin, mend Step
	switch kind := g.rng.IntN(10); {
	case !h.Node():
		begin, mend = g.daemonFault(h)
		steps = 1 + g.rng.IntN(3) // calls wait for what is away
	case kind < 5:
		begin, mend = g.daemonFault(h)
	case kind < 7:
		begin, mend = g.linkFault(h)
	case kind == 7:
		begin, mend = Step{Op: Restart, Host: h.Name}, Step{Op: Wait, For: time.Millisecond}
	case kind == 8:
		begin, mend = Step{Op: Reboot, Host: h.Name}, Step{Op: Wait, For: time.Millisecond}
		maps.DeleteFunc(g.vms, func(_ string, v *vm) bool { return v.host == h.Name })
	case h.Kind == lab.Network:
		begin, mend = Step{Op: Drain, Host: h.Name}, Step{Op: Undrain, Host: h.Name}
	}
	if begin.Op == "" {
		return Step{}, false
	}
	g.broken = &fault{host: h.Name, mend: mend, left: steps}
	return begin, true
}

// daemonFault kills or holds one of a host's daemons; dnsmasq is started again by the agent.
func (g *Generator) daemonFault(h lab.HostInfo) (begin, mend Step) {
	daemons := map[lab.Kind][]lab.Daemon{
		lab.Controller: {lab.ControllerDaemon}, lab.EtcdMember: {lab.EtcdDaemon},
		lab.Network: {lab.AgentDaemon, lab.AgentDaemon, lab.VSwitchDaemon, lab.OVSDBDaemon, lab.DnsmasqDaemon},
		lab.Compute: {lab.AgentDaemon, lab.AgentDaemon, lab.VSwitchDaemon, lab.OVSDBDaemon},
	}[h.Kind]
	if len(daemons) == 0 {
		return Step{}, Step{}
	}
	d := daemons[g.rng.IntN(len(daemons))]
	if g.rng.IntN(3) == 0 {
		return Step{Op: Pause, Host: h.Name, Daemon: d}, Step{Op: Resume, Host: h.Name, Daemon: d}
	}
	return Step{Op: Kill, Host: h.Name, Daemon: d}, Step{Op: Start, Host: h.Name, Daemon: d}
}

func (g *Generator) linkFault(h lab.HostInfo) (begin, mend Step) {
	link := h.Links[g.rng.IntN(len(h.Links))].Network
	op := Cut
	if g.rng.IntN(2) == 0 {
		op = Darken
	}
	return Step{Op: op, Host: h.Name, Link: link}, Step{Op: Heal, Host: h.Name, Link: link}
}
