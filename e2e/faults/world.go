package faults

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/e2e/check"
	"github.com/weft-sdn/weft/e2e/fleet"
	"github.com/weft-sdn/weft/e2e/lab"
	"github.com/weft-sdn/weft/e2e/lab/echo"
	"github.com/weft-sdn/weft/proto/keys"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// world is a lab with traffic of every kind.
type world struct {
	*fleet.Fleet
	router string
	// network is that of the VMs, spare one without any, which changes go to.
	network, spare string
	pings          []ping
	// places are the hosts of a case's places, as they were when it began: a fault may move what they are named after.
	places map[string]string
}

// ping is a flow: where it begins and ends.
type ping struct {
	name string
	from lab.Space
	to   netip.Addr
}

// callTime bounds one call.
const callTime = 10 * time.Second

func newWorld(ctx context.Context, l *lab.Lab) (*world, error) {
	f, err := fleet.Open(l, callTime)
	if err != nil {
		return nil, err
	}
	w := &world{Fleet: f}
	if err := w.populate(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("populate the lab: %w", err), f.Close())
	}
	return w, nil
}

func (w *world) populate(ctx context.Context) error {
	if err := w.Admit(ctx); err != nil {
		return err
	}
	out, err := w.Network(ctx, &weftv1.Network{Name: "out", Type: weftv1.NetworkType_NETWORK_TYPE_FLAT, PhysicalNetwork: "ext1", External: true})
	if err != nil {
		return err
	}
	if _, err := w.Subnet(ctx, &weftv1.Subnet{NetworkId: out.GetId(), Cidr: "203.0.113.0/24", EnableDhcp: proto.Bool(false)}); err != nil {
		return err
	}
	subnets := map[string]*weftv1.Subnet{}
	for name, cidr := range map[string]string{"n": "10.10.0.0/24", "spare": "10.20.0.0/24"} {
		n, err := w.Network(ctx, &weftv1.Network{Name: name})
		if err == nil {
			subnets[name], err = w.Subnet(ctx, &weftv1.Subnet{NetworkId: n.GetId(), Cidr: cidr})
		}
		if err != nil {
			return err
		}
	}
	w.network, w.spare = subnets["n"].GetNetworkId(), subnets["spare"].GetNetworkId()
	r, err := w.Router(ctx, &weftv1.Router{Name: "r"}, out.GetId(), subnets["n"].GetId(), subnets["spare"].GetId())
	if err != nil {
		return err
	}
	w.router = r.GetId()
	return w.traffic(ctx, out.GetId())
}

// traffic makes the VMs and names the pings between them and the outside.
func (w *world) traffic(ctx context.Context, external string) error {
	vms := map[string]*lab.VM{}
	for name, host := range map[string]string{"a": "cmp1", "b": "cmp2"} {
		p, err := w.Port(ctx, &weftv1.Port{Name: name, NetworkId: w.network})
		if err != nil {
			return err
		}
		// Leases come by DHCP, whose server may be being built.
		if vms[name], err = w.AddVM(ctx, lab.VMSpec{Name: name, Host: host, Port: lab.Port{ID: p.GetId(), MAC: p.GetMacAddress()}}); err != nil {
			return err
		}
	}
	fip, err := w.FloatingIP(ctx, external, vms["a"].Spec.Port.ID)
	if err != nil {
		return err
	}
	outside, err := w.External("ext1")
	if err != nil {
		return err
	}
	to, err := netip.ParseAddr(fip.GetIpAddress())
	if err != nil {
		return err
	}
	w.pings = []ping{
		{East, vms["b"].Space, vms["a"].Spec.Lease.Address.Addr()},
		{Outbound, vms["b"].Space, outside.Address().Addr()},
		{Floating, outside.Space, to},
	}
	return nil
}

// locate finds the hosts of the places. The compute node is the one whose VM all pings reach or leave.
func (w *world) locate(ctx context.Context) error {
	r, err := fleet.Do[*weftv1.Router](ctx, w.Fleet, &weftv1.GetRouterRequest{Id: w.router})
	if err != nil {
		return err
	}
	n, err := fleet.Do[*weftv1.Network](ctx, w.Fleet, &weftv1.GetNetworkRequest{Id: w.network})
	if err != nil {
		return err
	}
	forwards := r.GetActiveNode()
	if forwards == "" && len(r.GetPlacement().GetNodes()) > 0 {
		forwards = r.GetPlacement().GetNodes()[0]
	}
	if forwards == "" || len(n.GetDhcpPlacement().GetNodes()) == 0 {
		return fmt.Errorf("the router is on %q, DHCP on %v", forwards, n.GetDhcpPlacement().GetNodes())
	}
	w.places = map[string]string{
		holder: forwards, compute: "cmp1", controller: "ctl1", member: "etcd1", server: n.GetDhcpPlacement().GetNodes()[0],
	}
	return nil
}

func (w *world) at(place string) (*lab.Host, error) { return w.Host(w.places[place]) }

// settled waits until the audit finds nothing and every ping is answered.
func (w *world) settled(ctx context.Context, patience time.Duration) ([]check.Finding, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	found, err := check.Await(ctx, w.Lab, patience)
	if err != nil || len(found) > 0 {
		return found, err
	}
	for _, p := range w.pings {
		if err := w.steady(ctx, p); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// steady waits for a series of answers without a gap.
func (w *world) steady(ctx context.Context, p ping) error {
	return fleet.Until(ctx, p.name+" is answered", func(ctx context.Context) error {
		if _, err := p.from.AwaitPing(ctx, p.to); err != nil {
			return err
		}
		stats, err := p.from.Ping(ctx, p.to, echo.Options{Count: 30, Wait: 300 * time.Millisecond})
		if err == nil && stats.Lost() > 0 {
			err = fmt.Errorf("%s: %s", p.name, stats)
		}
		return err
	})
}

// changes makes 20 changes a second through the API until its context ends, and tells how many were refused or not answered.
func (w *world) changes(ctx context.Context, log io.Writer) (done, failed int) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	type outcome struct {
		port string
		err  error
	}
	var made []string
	results := make(chan outcome, 64)
	pending := 0
	take := func(o outcome) {
		if pending--; o.err != nil {
			if failed++; failed <= 3 { // the others are like them
				fmt.Fprintf(log, "  a change failed: %v\n", o.err)
			}
			return
		}
		if done++; o.port != "" {
			made = append(made, o.port)
		}
	}
	for {
		select {
		case <-ctx.Done():
			for pending > 0 {
				take(<-results)
			}
			return done, failed + w.forget(context.WithoutCancel(ctx), made)
		case o := <-results:
			take(o)
		case <-tick.C:
			if pending == cap(results) {
				continue
			}
			pending++
			if len(made) > 20 {
				port := made[0]
				made = made[1:]
				go func() { results <- outcome{err: w.deletePort(context.WithoutCancel(ctx), port)} }()
				continue
			}
			go func() {
				p, err := w.Port(context.WithoutCancel(ctx), &weftv1.Port{NetworkId: w.spare, Host: "cmp1"})
				results <- outcome{p.GetId(), err}
			}()
		}
	}
}

func (w *world) deletePort(ctx context.Context, id string) error {
	_, err := fleet.Do[proto.Message](ctx, w.Fleet, &weftv1.DeletePortRequest{Id: id})
	return err
}

// forget deletes what the changes made.
func (w *world) forget(ctx context.Context, ports []string) (failed int) {
	for _, id := range ports {
		if w.deletePort(ctx, id) != nil {
			failed++
		}
	}
	return failed
}

// sweep deletes the ports of the spare network that are nobody's: those whose call was not answered.
func (w *world) sweep(ctx context.Context) error {
	all, err := fleet.Do[*weftv1.ListPortsResponse](ctx, w.Fleet, &weftv1.ListPortsRequest{Filter: "network_id = " + w.spare})
	for _, p := range all.GetPorts() {
		if err == nil && p.GetDeviceOwner() == "" {
			err = w.deletePort(ctx, p.GetId())
		}
	}
	return err
}

// active is the router's node, and why it is that one; empty when the store can't say.
func (w *world) active(ctx context.Context) *storev1.ActiveRouter {
	out := &storev1.ActiveRouter{}
	client, err := w.Etcd()
	if err != nil {
		return out
	}
	defer func() { _ = client.Close() }() // it only read
	answer, err := client.Get(ctx, keys.Active(w.router))
	if err == nil && len(answer.Kvs) > 0 {
		_ = proto.Unmarshal(answer.Kvs[0].Value, out) // the audit finds what is no message
	}
	return out
}

// moved says where the router is if it is not where it was when the case began; "" when it is.
func (w *world) moved(ctx context.Context) string {
	a := w.active(ctx)
	if a.GetNode() == w.places[holder] {
		return ""
	}
	return fmt.Sprintf("from %s to %s: %s", w.places[holder], a.GetNode(), a.GetReason())
}

// seen is what an operator sees now: nodes that are not alive, and objects that are not ACTIVE.
func (w *world) seen(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	nodes, err := fleet.Do[*weftv1.ListNodesResponse](ctx, w.Fleet, &weftv1.ListNodesRequest{})
	if err != nil {
		return "calls fail"
	}
	out := ""
	for _, n := range nodes.GetNodes() {
		if !n.GetAlive() {
			out += n.GetId() + " not alive; "
		}
		for _, p := range n.GetProblems() {
			out += n.GetId() + ": " + p + "; "
		}
	}
	r, err := fleet.Do[*weftv1.Router](ctx, w.Fleet, &weftv1.GetRouterRequest{Id: w.router})
	if err == nil && r.GetStatus().GetState() != weftv1.State_STATE_ACTIVE {
		out += fmt.Sprintf("router %s; ", r.GetStatus().GetState())
	}
	if err == nil && r.GetActiveNode() != "" && r.GetActiveNode() != w.places[holder] {
		out += "router moved (" + w.active(ctx).GetReason() + "); "
	}
	n, err := fleet.Do[*weftv1.Network](ctx, w.Fleet, &weftv1.GetNetworkRequest{Id: w.network})
	if err == nil && n.GetStatus().GetState() != weftv1.State_STATE_ACTIVE {
		out += fmt.Sprintf("DHCP %s; ", n.GetStatus().GetState())
	}
	return out
}
