package fleet

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// Current is what is stored: every segment range, network and subnet, and the project's grants, ports, routers, floating IPs,
// groups and rules (of other projects they do no harm).
type Current struct {
	SegmentRanges []*weftv1.SegmentRange
	Networks      []*weftv1.Network
	Grants        []*weftv1.NetworkGrant
	Subnets       []*weftv1.Subnet
	Ports         []*weftv1.Port
	Routers       []*weftv1.Router
	FloatingIPs   []*weftv1.FloatingIp

	AddressGroups  []*weftv1.AddressGroup
	SecurityGroups []*weftv1.SecurityGroup
	Rules          []*weftv1.SecurityGroupRule
}

// Plan returns the steps that lead from what is stored to what the file wants, in the order in which they can be taken,
// and an Unchanged action for each object that is already as wanted. File.Project must be decided. The error names
// everything that stands in the way of a plan; nothing may be done then. Once all steps are taken, the plan from the new
// state changes nothing.
func Plan(current Current, want File) ([]Action, error) {
	p := &planner{current: current, project: want.Project, ids: map[string]string{}, done: map[string]int{}}
	p.declare(want)
	for i, r := range want.SegmentRanges {
		p.segmentRange(at("segment_ranges", i, r.Name), r)
	}
	for i, n := range want.Networks {
		p.network(at("networks", i, n.Name), n)
	}
	for i, g := range want.AddressGroups {
		p.addressGroup(at("address_groups", i, g.Name), g)
	}
	for i, g := range want.SecurityGroups {
		p.securityGroup(at("security_groups", i, g.Name), g)
	}
	for i, port := range want.Ports {
		p.port(at("ports", i, port.Name), port)
	}
	for i, r := range want.Routers {
		p.router(at("routers", i, r.Name), r)
	}
	p.floatingIPs(want.FloatingIPs)
	if len(p.errs) > 0 {
		return nil, errors.Join(p.errs...)
	}
	slices.SortStableFunc(p.steps, func(a, b step) int { return cmp.Compare(a.phase, b.phase) })
	actions := make([]Action, len(p.steps))
	for i, s := range p.steps {
		actions[i] = s.Action
	}
	return actions, nil
}

// phase orders the steps: first what frees addresses, subnets and networks, then what others rest on. What asks for a
// definite address comes before what takes any, which might be that one.
type phase int

const (
	phaseDisassociate phase = iota
	phaseRemoveRoute
	phaseRemoveInterface
	phaseClearGateway
	phaseSegmentRange
	phaseNetwork
	phaseGrant
	phaseSubnet
	phaseAddressGroup
	phaseSecurityGroup
	phaseRule
	phasePortAt
	phaseFloatingIPAt
	phaseRouter
	phaseGatewayAt
	phasePort
	phaseGateway
	phaseInterface
	phaseRoute
	phaseFloatingIP
	phaseRemoveRule
	phaseRevoke
)

type step struct {
	phase phase
	Action
}

// planner is the state of one Plan.
type planner struct {
	current Current
	project string
	// ids are the declared objects: noun and name -> id, or placeholder when it is to be created.
	ids   map[string]string
	steps []step
	done  map[string]int // steps per object, to know which need none
	errs  []error
}

// where is an element of the file, for errors.
type where string

func at(list string, i int, name string) where {
	return where(fmt.Sprintf("%s[%d] (%s)", list, i, name))
}

func (p *planner) failf(w where, format string, args ...any) {
	p.errs = append(p.errs, fmt.Errorf("%s: %w", w, fmt.Errorf(format, args...)))
}

// add appends a step that changes something.
func (p *planner) add(ph phase, a Action) {
	p.done[placeholder(a.Noun, a.Name)]++
	p.steps = append(p.steps, step{ph, a})
}

func (p *planner) update(ph phase, noun, name, detail string, req proto.Message) {
	p.add(ph, Action{Verb: Update, Noun: noun, Name: name, Detail: detail, Request: req})
}

// unchanged ends an object that got no step.
func (p *planner) unchanged(ph phase, noun, name string) {
	if p.done[placeholder(noun, name)] == 0 {
		p.steps = append(p.steps, step{ph, Action{Verb: Unchanged, Noun: noun, Name: name}})
	}
}

// The nouns, as in errors and actions.
const (
	nounRange      = "segment range"
	nounNetwork    = "network"
	nounSubnet     = "subnet"
	nounPort       = "port"
	nounRouter     = "router"
	nounFloatingIP = "floating IP"

	nounAddressGroup  = "address group"
	nounSecurityGroup = "security group"
)

// declare finds the id of each object of the file, so that references can be followed in any order.
func (p *planner) declare(want File) {
	for i, r := range want.SegmentRanges {
		declareOne(p, at("segment_ranges", i, r.Name), nounRange, r.Name, r.Name, p.current.SegmentRanges)
	}
	for i, n := range want.Networks {
		w := at("networks", i, n.Name)
		id := declareOne(p, w, nounNetwork, n.Name, n.Name, ofProject(p, p.current.Networks))
		on := slices.DeleteFunc(slices.Clone(p.current.Subnets), func(s *weftv1.Subnet) bool { return s.GetNetworkId() != id })
		for j, s := range n.Subnets {
			declareOne(p, where(fmt.Sprintf("%s.subnets[%d] (%s)", w, j, s.Name)), nounSubnet, s.Name, subnetKey(n.Name, s.Name), on)
		}
	}
	for i, g := range want.AddressGroups {
		declareOne(p, at("address_groups", i, g.Name), nounAddressGroup, g.Name, g.Name, ofProject(p, p.current.AddressGroups))
	}
	for i, g := range want.SecurityGroups {
		declareOne(p, at("security_groups", i, g.Name), nounSecurityGroup, g.Name, g.Name, ofProject(p, p.current.SecurityGroups))
	}
	for i, port := range want.Ports {
		declareOne(p, at("ports", i, port.Name), nounPort, port.Name, port.Name, ofProject(p, p.current.Ports))
	}
	for i, r := range want.Routers {
		declareOne(p, at("routers", i, r.Name), nounRouter, r.Name, r.Name, ofProject(p, p.current.Routers))
	}
	for i, f := range want.FloatingIPs {
		declareOne(p, at("floating_ips", i, f.Name), nounFloatingIP, f.Name, f.Name, ofProject(p, p.current.FloatingIPs))
	}
}

// subnetKey is a subnet's name with its network's: subnets of different networks may share a name.
func subnetKey(network, subnet string) string { return network + "/" + subnet }

// named is any stored object.
type named interface {
	proto.Message
	GetId() string
	GetName() string
}

func ofProject[M interface {
	named
	GetProject() string
}](p *planner, all []M,
) []M {
	return slices.DeleteFunc(slices.Clone(all), func(m M) bool { return m.GetProject() != p.project })
}

// declareOne decides the id of a declared object and returns it; key is its name within the file.
func declareOne[M named](p *planner, w where, noun, name, key string, stored []M) string {
	full := placeholder(noun, key)
	switch _, twice := p.ids[full]; {
	case name == "":
		p.failf(w, "name: is missing")
		return ""
	case strings.ContainsRune(name, 0):
		p.failf(w, "name: %q holds a NUL character", name)
		return ""
	case twice:
		p.failf(w, "the file holds two %ss of this name", noun)
		return ""
	}
	found := byName(stored, name)
	if len(found) > 1 {
		p.failf(w, "%s", ambiguous(noun, name, found))
	}
	p.ids[full] = full
	if len(found) > 0 {
		p.ids[full] = found[0].GetId()
	}
	return p.ids[full]
}

func byName[M named](all []M, name string) []M {
	return slices.DeleteFunc(slices.Clone(all), func(m M) bool { return m.GetName() != name })
}

func byID[M named](all []M, id string) (M, bool) {
	for _, m := range all {
		if m.GetId() == id {
			return m, true
		}
	}
	var no M
	return no, false
}

func ambiguous[M named](noun, name string, found []M) string {
	ids := make([]string, len(found))
	for i, m := range found {
		ids[i] = m.GetId()
	}
	return fmt.Sprintf("%d stored %ss are called %q: %s; rename all but one", len(found), noun, name, strings.Join(ids, ", "))
}

// networkID follows a reference to a network: of the file, of the project, or one of another that the project may use.
func (p *planner) networkID(w where, ref string) string {
	if id, ok := p.ids[placeholder(nounNetwork, ref)]; ok {
		return id
	}
	found := byName(p.current.Networks, ref)
	if own := ofProject(p, found); len(own) > 0 {
		found = own
	} else {
		found = slices.DeleteFunc(found, func(n *weftv1.Network) bool { return !p.usable(n) })
	}
	return pick(p, w, nounNetwork, ref, found)
}

// pick is the id of the one object found.
func pick[M named](p *planner, w where, noun, ref string, found []M) string {
	switch {
	case ref == "":
		p.failf(w, "the name of a %s is missing", noun)
	case len(found) == 0:
		p.failf(w, "no %s is called %q, in the file or among what is stored for project %s", noun, ref, p.project)
	case len(found) > 1:
		p.failf(w, "%s", ambiguous(noun, ref, found))
	default:
		return found[0].GetId()
	}
	return ""
}

// subnetID follows a reference to a subnet, NAME or NETWORK/NAME.
func (p *planner) subnetID(w where, ref string) string {
	if network, name, ok := strings.Cut(ref, "/"); ok {
		if id, ok := p.ids[placeholder(nounSubnet, ref)]; ok {
			return id
		}
		on := p.networkID(w, network)
		return pick(p, w, nounSubnet, ref, slices.DeleteFunc(byName(p.current.Subnets, name), func(s *weftv1.Subnet) bool { return s.GetNetworkId() != on }))
	}
	// The file's own of this name, and the stored ones that the file does not hold.
	found := map[string]*weftv1.Subnet{}
	for key, id := range p.ids {
		if strings.HasPrefix(key, placeholder(nounSubnet, "")) && strings.HasSuffix(key, "/"+ref) {
			found[id] = &weftv1.Subnet{Id: id, Name: strings.TrimPrefix(key, placeholder(nounSubnet, ""))}
		}
	}
	for _, s := range ofProject(p, byName(p.current.Subnets, ref)) {
		if found[s.GetId()] == nil {
			found[s.GetId()] = s
		}
	}
	if len(found) > 1 {
		p.failf(w, "%d subnets are called %q; write NETWORK/%s", len(found), ref, ref)
		return ""
	}
	var list []*weftv1.Subnet
	for _, s := range found {
		list = append(list, s)
	}
	return pick(p, w, nounSubnet, ref, list)
}

func (p *planner) portID(w where, ref string) string {
	return reference(p, w, nounPort, ref, p.current.Ports)
}
