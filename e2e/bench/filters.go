package main

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/weft-sdn/weft/e2e/lab"
	"github.com/weft-sdn/weft/e2e/lab/echo"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// remoteMembers is how many ports are in a group that rules refer to, rulesPerPort how many rules a port has in the count of
// flows.
const (
	remoteMembers = 2000
	rulesPerPort  = 10
	ownFlows      = 20 // of a port, at most
)

func filterShape(o *lab.Options) { o.NetworkNodes, o.ComputeNodes = 1, 2 }

func filtering() []measurement {
	return []measurement{
		{"rules", measureRules, []figure{
			{
				ID: "rule-added", Name: "rule added to a group of 100 ports of a node -> enforced", Unit: "ms", Reach: 30,
				Between: "CreateSecurityGroupRule (ingress icmp) is called for a group that 100 plugged ports of cmp1 are in -> first answer of the last of them at a VM on cmp2 that pings it every 10 ms, each echo a flow of its own",
			},
			{
				ID: "rule-removed", Name: "same rule removed -> enforced", Unit: "ms",
				Between: "DeleteSecurityGroupRule is called -> last answer to the same pings, now of one flow",
			},
		}},
		{"members", measureMembers, []figure{
			{
				ID: "member-joined", Name: "a port joins a group of 2,000 that a rule refers to -> its packets pass on another node", Unit: "ms", Reach: 50,
				Between: "UpdatePort (security_groups) is called for a port of cmp1 -> first answer to its pings from a VM on cmp2 whose only ingress rule is for that group's members; the 2,000 others are not plugged",
			},
			{
				ID: "member-left", Name: "it leaves -> cut", Unit: "ms", Reach: 50,
				Between: "UpdatePort is called -> last answer to pings of one flow, every 10 ms",
			},
		}},
		{"flows", measureFlows, []figure{
			{
				ID: "filter-flows", Name: "flows of br-int for 100 ports with 10 rules each, one for the members of a group of 2,000", Unit: "flows", Reach: remoteMembers + manyPorts*ownFlows,
				Between: "the flows that ovs-ofctl counts with these ports, less those without; the reach is one for each member and 20 for each port, whose own addresses take 16: rules x members would be 20,000, and as many for each port 2 million",
			},
		}},
		{"filtered streams", measureFiltered, []figure{
			{ID: "filtered-tcp", Name: "1 TCP stream between filtered ports against ports without port security, one host", Unit: "times", Reach: 0.85, AtLeast: true, Between: "the ratio of two streams of 2 s, one right after the other"},
			{ID: "filtered-rtt", Name: "round trip between filtered ports against the same", Unit: "times", Reach: 1.15, Between: "the ratio of the means of 1,000 pings at a distance of 1 ms, taken at the same time"},
		}},
	}
}

// group makes a security group with rules for all that its ports send, and more rules.
func (b *bench) group(ctx context.Context, rules ...*weftv1.SecurityGroupRule) (*weftv1.SecurityGroup, error) {
	g, err := b.CreateSecurityGroup(ctx, &weftv1.CreateSecurityGroupRequest{SecurityGroup: &weftv1.SecurityGroup{Name: b.name("group")}})
	if err != nil {
		return nil, fmt.Errorf("create a security group: %w", err)
	}
	b.groups = append(b.groups, g.GetId())
	for _, r := range append(rules, &weftv1.SecurityGroupRule{Direction: weftv1.Direction_DIRECTION_EGRESS}) {
		if _, err := b.rule(ctx, g, r); err != nil {
			return nil, err
		}
	}
	return g, nil
}

func (b *bench) rule(ctx context.Context, g *weftv1.SecurityGroup, r *weftv1.SecurityGroupRule) (*weftv1.SecurityGroupRule, error) {
	r = proto.CloneOf(r)
	r.SecurityGroupId = g.GetId()
	made, err := b.CreateSecurityGroupRule(ctx, &weftv1.CreateSecurityGroupRuleRequest{SecurityGroupRule: r})
	if err != nil {
		return nil, fmt.Errorf("create a rule: %w", err)
	}
	return made, nil
}

// ping is a rule that lets echoes in.
func ping() *weftv1.SecurityGroupRule {
	return &weftv1.SecurityGroupRule{Direction: weftv1.Direction_DIRECTION_INGRESS, Protocol: "icmp"}
}

// anybody is a rule that lets everything in.
func anybody() *weftv1.SecurityGroupRule {
	return &weftv1.SecurityGroupRule{Direction: weftv1.Direction_DIRECTION_INGRESS}
}

// fromMembers is a rule that lets everything of a group's members in.
func fromMembers(g *weftv1.SecurityGroup) *weftv1.SecurityGroupRule {
	return &weftv1.SecurityGroupRule{Direction: weftv1.Direction_DIRECTION_INGRESS, Remote: &weftv1.SecurityGroupRule_RemoteGroupId{RemoteGroupId: g.GetId()}}
}

func in(groups ...*weftv1.SecurityGroup) *weftv1.SecurityGroupIds {
	out := &weftv1.SecurityGroupIds{}
	for _, g := range groups {
		out.Ids = append(out.Ids, g.GetId())
	}
	return out
}

// members makes VMs whose ports are in groups, plugged.
func (b *bench) members(ctx context.Context, s segment, node string, count int, groups ...*weftv1.SecurityGroup) ([]guest, error) {
	guests, err := b.guestsLike(ctx, s, node, count, &weftv1.Port{NetworkId: s.network.GetId(), Host: node, SecurityGroups: in(groups...)})
	if err != nil {
		return nil, err
	}
	return guests, b.reach(ctx, weftv1.State_STATE_ACTIVE, guests, func() error { return b.lab.Plug(ctx, vmsOf(guests)...) })
}

// lastPing acts while a place sends echoes of one flow that are answered, and returns the time from the act to the last
// answer: nothing comes for half a second then.
func lastPing(ctx context.Context, from lab.Space, to netip.Addr, act func() error) (time.Duration, error) {
	const quiet = 500 * time.Millisecond
	run, err := from.StartPing(ctx, echo.Options{Destination: to, Interval: probeEvery, Wait: time.Millisecond})
	if err != nil {
		return 0, err
	}
	defer run.Stop()
	began := time.Now()
	select {
	case <-run.FirstAnswer():
	case <-time.After(patience):
		return 0, fmt.Errorf("ping %s from %s: not answered before the act", to, from)
	}
	offset := time.Since(began) // from the run's begin, but for the microseconds that its start took
	acted := stopwatch()
	if err := act(); err != nil {
		return 0, err
	}
	var last time.Duration
	err = until(ctx, to.String()+" is cut off", func() (bool, error) {
		last = run.Snapshot().LastAnswer - offset
		return acted()-last > quiet, nil
	})
	return max(last, 0), err
}

func measureRules(ctx context.Context, b *bench, got samples) error {
	s, err := b.segment(ctx, "10.20.0.0/16", false)
	if err != nil {
		return err
	}
	asking, err := b.group(ctx)
	if err != nil {
		return err
	}
	g, err := b.group(ctx)
	if err != nil {
		return err
	}
	askers, err := b.members(ctx, s, "cmp2", 1, asking)
	if err != nil {
		return err
	}
	guests, err := b.members(ctx, s, "cmp1", manyPorts, g)
	if err != nil {
		return err
	}
	asker, last := askers[0], guests[len(guests)-1]
	for range b.n {
		var rule *weftv1.SecurityGroupRule
		took, err := firstPing(ctx, asker.Space, last.address, func() (err error) {
			rule, err = b.rule(ctx, g, ping())
			return err
		})
		if err != nil {
			return err
		}
		got.took("rule-added", took)
		took, err = lastPing(ctx, asker.Space, last.address, func() error {
			_, err := b.DeleteSecurityGroupRule(ctx, &weftv1.DeleteSecurityGroupRuleRequest{Id: rule.GetId()})
			return err
		})
		if err != nil {
			return err
		}
		got.took("rule-removed", took)
	}
	return nil
}

// crowd is a group with 2,000 ports that nobody has plugged, in a network of their own.
func (b *bench) crowd(ctx context.Context, cidr string) (*weftv1.SecurityGroup, error) {
	g, err := b.group(ctx)
	if err != nil {
		return nil, err
	}
	s, err := b.segment(ctx, cidr, false)
	if err != nil {
		return nil, err
	}
	_, err = b.createPorts(ctx, remoteMembers, func(int) *weftv1.Port {
		return &weftv1.Port{NetworkId: s.network.GetId(), SecurityGroups: in(g)}
	})
	return g, err
}

func measureMembers(ctx context.Context, b *bench, got samples) error {
	crowd, err := b.crowd(ctx, "10.21.0.0/16")
	if err != nil {
		return err
	}
	s, err := b.segment(ctx, "10.22.0.0/16", false)
	if err != nil {
		return err
	}
	own, err := b.group(ctx)
	if err != nil {
		return err
	}
	friends, err := b.group(ctx, fromMembers(crowd))
	if err != nil {
		return err
	}
	joiners, err := b.members(ctx, s, "cmp1", 1, own)
	if err != nil {
		return err
	}
	targets, err := b.members(ctx, s, "cmp2", 1, friends)
	if err != nil {
		return err
	}
	joiner, target := joiners[0], targets[0]
	become := func(groups ...*weftv1.SecurityGroup) func() error {
		return func() error {
			_, err := b.UpdatePort(ctx, &weftv1.UpdatePortRequest{
				Port: &weftv1.Port{Id: joiner.port.GetId(), SecurityGroups: in(groups...)}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"security_groups"}},
			})
			return err
		}
	}
	for range b.n {
		took, err := firstPing(ctx, joiner.Space, target.address, become(own, crowd))
		if err != nil {
			return err
		}
		got.took("member-joined", took)
		if took, err = lastPing(ctx, joiner.Space, target.address, become(own)); err != nil {
			return err
		}
		got.took("member-left", took)
	}
	return nil
}

func measureFlows(ctx context.Context, b *bench, got samples) error {
	crowd, err := b.crowd(ctx, "10.23.0.0/16")
	if err != nil {
		return err
	}
	s, err := b.segment(ctx, "10.24.0.0/16", false)
	if err != nil {
		return err
	}
	rules := []*weftv1.SecurityGroupRule{fromMembers(crowd)}
	for i := range rulesPerPort - 2 { // and the one that every group of the bench has
		rules = append(rules, &weftv1.SecurityGroupRule{Direction: weftv1.Direction_DIRECTION_INGRESS, Protocol: "tcp", PortMin: proto.Uint32(uint32(1000 + i))}) //nolint:gosec // few
	}
	g, err := b.group(ctx, rules...)
	if err != nil {
		return err
	}
	before, err := b.flowsOf(ctx, "cmp1")
	if err != nil {
		return err
	}
	if _, err := b.members(ctx, s, "cmp1", manyPorts, g); err != nil {
		return err
	}
	after, err := b.flowsOf(ctx, "cmp1")
	got.add("filter-flows", float64(after-before))
	return err
}

// flowsOf counts the flows of a node's br-int.
func (b *bench) flowsOf(ctx context.Context, node string) (int, error) {
	h, err := b.lab.Host(node)
	if err != nil {
		return 0, err
	}
	out, err := h.Exec(ctx, "ovs-ofctl", "-O", "OpenFlow14", "--no-stats", "dump-flows", "br-int")
	return strings.Count(out, "\n"), err
}

func measureFiltered(ctx context.Context, b *bench, got samples) error {
	s, err := b.segment(ctx, "10.25.0.0/24", false)
	if err != nil {
		return err
	}
	g, err := b.group(ctx, anybody())
	if err != nil {
		return err
	}
	filtered, err := b.members(ctx, s, "cmp1", 2, g)
	if err != nil {
		return err
	}
	plain, err := b.guestsLike(ctx, s, "cmp1", 2, &weftv1.Port{NetworkId: s.network.GetId(), Host: "cmp1", PortSecurityEnabled: proto.Bool(false)})
	if err != nil {
		return err
	}
	if err := b.reach(ctx, weftv1.State_STATE_ACTIVE, plain, func() error { return b.lab.Plug(ctx, vmsOf(plain)...) }); err != nil {
		return err
	}
	for range b.few() {
		var rates []float64
		for _, pair := range [][]guest{filtered, plain} {
			rate, err := stream(ctx, pair[0].Space, pair[1].Space, pair[1].address)
			if err != nil {
				return err
			}
			rates = append(rates, rate)
		}
		got.add("filtered-tcp", rates[0]/rates[1])
		ratio, err := roundTrips(ctx, filtered, plain)
		if err != nil {
			return err
		}
		got.add("filtered-rtt", ratio)
	}
	return nil
}

// roundTrips pings within two pairs at once, and returns the ratio of the mean round trips of the first to the second.
func roundTrips(ctx context.Context, pairs ...[]guest) (float64, error) {
	var runs []*echo.Run
	for _, p := range pairs {
		run, err := p[0].StartPing(ctx, echo.Options{Destination: p[1].address, Count: 1000, Interval: time.Millisecond})
		if err != nil {
			return 0, err
		}
		runs = append(runs, run)
	}
	var means []float64
	for _, run := range runs {
		stats := run.Wait()
		if stats.Received == 0 {
			return 0, fmt.Errorf("no answer: %v", stats)
		}
		means = append(means, stats.MeanRTT.Seconds())
	}
	return means[0] / means[1], nil
}

// removeGroups deletes the groups of a measurement, the latest first: rules of later ones refer to earlier ones.
func (b *bench) removeGroups(ctx context.Context) error {
	for _, id := range slices.Backward(b.groups) {
		if _, err := b.DeleteSecurityGroup(ctx, &weftv1.DeleteSecurityGroupRequest{Id: id}); err != nil {
			return fmt.Errorf("delete a security group: %w", err)
		}
	}
	b.groups = nil
	return nil
}
