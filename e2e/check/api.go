package check

import (
	"context"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/weft-sdn/weft/e2e/lab"
	"github.com/weft-sdn/weft/proto/keys"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// shown is what one controller shows of the objects that have a state.
type shown struct {
	controller string
	ports      map[string]weftv1.State
	routers    map[string]weftv1.State
	floating   map[string]weftv1.State
	networks   map[string]weftv1.State
}

// askTime bounds what is asked of one controller.
const askTime = 10 * time.Second

// maxAnswer is enough for a list of 10,000 ports, in bytes.
const maxAnswer = 64 << 20

// askControllers has every controller that runs show all objects. One that does not answer is a finding.
func askControllers(ctx context.Context, l *lab.Lab) ([]shown, findings, error) {
	status, err := l.Status()
	if err != nil {
		return nil, nil, err
	}
	servers, err := l.Server()
	if err != nil {
		return nil, nil, err
	}
	var out []shown
	var found findings
	for _, server := range strings.Split(servers, ",") {
		for _, h := range status.Hosts {
			if !strings.Contains(server, "/"+h.Name+"/") || !runs(h, lab.ControllerDaemon) {
				continue
			}
			s, err := ask(ctx, h.Name, server)
			if err != nil {
				found.addf(Truth, h.Name, "its controller does not answer: %v", err)
				continue
			}
			out = append(out, s)
		}
	}
	return out, found, nil
}

func runs(h lab.HostStatus, d lab.Daemon) bool {
	for _, have := range h.Daemons {
		if have.Daemon == d {
			return true
		}
	}
	return false
}

func ask(ctx context.Context, name, server string) (shown, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	out := shown{
		controller: name, ports: map[string]weftv1.State{}, routers: map[string]weftv1.State{},
		floating: map[string]weftv1.State{}, networks: map[string]weftv1.State{},
	}
	conn, err := grpc.NewClient(server, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)))
	if err != nil {
		return out, err
	}
	defer func() { _ = conn.Close() }() // only reads went over it
	const page = 10000
	ports, err := weftv1.NewPortServiceClient(conn).ListPorts(ctx, &weftv1.ListPortsRequest{PageSize: page})
	if err != nil {
		return out, err
	}
	routers, err := weftv1.NewRouterServiceClient(conn).ListRouters(ctx, &weftv1.ListRoutersRequest{PageSize: page})
	if err != nil {
		return out, err
	}
	floating, err := weftv1.NewFloatingIpServiceClient(conn).ListFloatingIps(ctx, &weftv1.ListFloatingIpsRequest{PageSize: page})
	if err != nil {
		return out, err
	}
	networks, err := weftv1.NewNetworkServiceClient(conn).ListNetworks(ctx, &weftv1.ListNetworksRequest{PageSize: page})
	if err != nil {
		return out, err
	}
	states(out.ports, ports.GetPorts())
	states(out.routers, routers.GetRouters())
	states(out.floating, floating.GetFloatingIps())
	states(out.networks, networks.GetNetworks())
	return out, nil
}

func states[M interface {
	GetId() string
	GetStatus() *weftv1.ObjectStatus
}](into map[string]weftv1.State, list []M,
) {
	for _, m := range list {
		into[m.GetId()] = m.GetStatus().GetState()
	}
}

// shownTruly checks that a controller shows the objects that are stored and no others, as ACTIVE those and only those that the
// node concerned is alive to have reported so, at the revision that is stored.
func (s *store) shownTruly(c shown) findings {
	v := showing{s, c.controller, findings{}}
	for id, p := range s.ports {
		node := s.location(p.msg)
		v.state("port", id, c.ports, s.reported(node, keys.KindPort, id, p.revision))
	}
	for id, r := range s.routers {
		v.state("router", id, c.routers, s.reported(s.holder(id), keys.KindRouter, id, r.revision))
	}
	for id, f := range s.floating {
		v.state("floating IP", id, c.floating, s.reported(s.holder(f.msg.GetRouterId()), keys.KindFloatingIP, id, f.revision))
	}
	for id, n := range s.networks {
		active := false
		for _, node := range n.msg.GetDhcpPlacement().GetNodes() {
			active = active || s.reported(node, keys.KindDHCP, id, s.dhcpRevision(id))
		}
		if got := c.networks[id]; got == weftv1.State_STATE_ACTIVE && !active {
			v.found.addf(Truth, v.controller, "DHCP of network %s is shown as ACTIVE; no node that is alive has reported it so", id)
		}
	}
	v.count("ports", len(c.ports), len(s.ports))
	v.count("routers", len(c.routers), len(s.routers))
	v.count("floating IPs", len(c.floating), len(s.floating))
	v.count("networks", len(c.networks), len(s.networks))
	return v.found
}

// reported tells whether a node that is alive says that it has made an object, as it is stored.
func (s *store) reported(node, kind, id string, revision int64) bool {
	_, alive := s.live[node]
	r, ok := s.reports[keys.Status(node, kind, id)]
	return alive && ok && r.msg.GetState() == weftv1.State_STATE_ACTIVE && r.msg.GetRevision() >= revision && !r.msg.GetStandby()
}

type showing struct {
	*store
	controller string
	found      findings
}

func (v *showing) state(what, id string, have map[string]weftv1.State, active bool) {
	got, ok := have[id]
	switch {
	case !ok:
		v.found.addf(Truth, v.controller, "%s %s is stored and not shown", what, id)
	case active != (got == weftv1.State_STATE_ACTIVE):
		v.found.addf(Truth, v.controller, "%s %s is shown as %s; its node says %s", what, id, got, saying(active))
	}
}

func saying(active bool) string {
	if active {
		return "that it is made"
	}
	return "nothing of the kind"
}

func (v *showing) count(what string, have, want int) {
	if have > want {
		v.found.addf(Truth, v.controller, "%s", fmt.Sprintf("%d %s are shown, %d are stored", have, what, want))
	}
}
