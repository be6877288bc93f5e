package chaos

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/weft-sdn/weft/cmd/weft/cli/client"
	"github.com/weft-sdn/weft/e2e/fleet"
	"github.com/weft-sdn/weft/e2e/lab"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// driver does the steps of a generator.
type driver struct {
	*fleet.Fleet
	options   Options
	generator *Generator
	ids       map[string]string // of objects, by name
	macs      map[string]string // of ports, by name
	external  string            // id of the network that gateways are on
	result    Result
}

// errSkipped tells that a step's object has not been made.
var errSkipped = errors.New("skipped")

// do does a step and says what came of it. The error is one that no fault and no earlier refusal explains.
func (d *driver) do(ctx context.Context, s Step) (outcome string, err error) {
	if err = d.act(ctx, s); err == nil {
		err = d.call(ctx, s)
	}
	var refused *client.Error
	switch {
	case err == nil:
		return "", nil
	case errors.Is(err, errSkipped):
		d.result.Skipped++
		return ": skipped", nil
	case errors.As(err, &refused) && refused.Code != codes.Internal && refused.Code != codes.Unknown && refused.Code != codes.DataLoss:
		d.result.Refused[refused.Code.String()]++
		return ": " + refused.Error(), nil
	default:
		return ": " + err.Error(), err
	}
}

// act does what concerns hosts and VMs.
func (d *driver) act(ctx context.Context, s Step) error {
	switch s.Op { //nolint:exhaustive // the others are calls
	case Plug:
		return d.plug(ctx, s)
	case Unplug:
		return d.unplug(ctx, s.Name)
	case Wait:
		return sleep(ctx, s.For)
	case Kill, Start, Pause, Resume, Cut, Darken, Heal, Restart, Reboot:
		return d.fault(ctx, s)
	default:
		return nil
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// plugTime bounds what is done on one host, which may be busy with what was broken.
const plugTime = 40 * time.Second

func (d *driver) plug(ctx context.Context, s Step) error {
	id := d.ids[s.Of]
	if id == "" {
		return errSkipped
	}
	ctx, cancel := context.WithTimeout(ctx, plugTime)
	defer cancel()
	_, err := d.AddVM(ctx, lab.VMSpec{Name: s.Name, Host: s.Host, Addressing: lab.Unaddressed, Port: lab.Port{ID: id, MAC: d.macs[s.Of]}})
	if errors.Is(err, lab.ErrExists) { // the VM of a deleted port has the place
		return errSkipped
	}
	return err
}

func (d *driver) unplug(ctx context.Context, name string) error {
	vm, err := d.VM(name)
	if errors.Is(err, lab.ErrNotFound) {
		return errSkipped
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, plugTime)
	defer cancel()
	return vm.Remove(ctx)
}

func (d *driver) fault(ctx context.Context, s Step) error {
	h, err := d.Host(s.Host)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, plugTime)
	defer cancel()
	switch s.Op { //nolint:exhaustive // see act
	case Kill:
		err = h.Kill(ctx, s.Daemon)
	case Pause:
		err = h.Pause(ctx, s.Daemon)
	case Resume:
		err = h.Resume(ctx, s.Daemon)
	case Start:
		if s.Daemon != lab.DnsmasqDaemon {
			err = h.Start(ctx, s.Daemon)
		}
	case Cut:
		err = h.Cut(s.Link)
	case Darken:
		err = h.CutCarrier(s.Link)
	case Heal:
		err = h.Heal(s.Link)
	case Restart:
		err = h.RestartOVS(ctx)
	case Reboot:
		err = h.Reboot(ctx)
	}
	if s.Daemon == lab.DnsmasqDaemon && errors.Is(err, lab.ErrNotFound) {
		return errSkipped // the node serves no network, or the agent ended it meanwhile
	}
	return err
}

// prepare makes what all steps rest on: segments for VLANs and a way out.
func (d *driver) prepare(ctx context.Context) error {
	_, err := fleet.Do[*weftv1.SegmentRange](ctx, d.Fleet, &weftv1.CreateSegmentRangeRequest{SegmentRange: &weftv1.SegmentRange{
		Type: weftv1.NetworkType_NETWORK_TYPE_VLAN, PhysicalNetwork: lab.Tenant, Minimum: 1000, Maximum: 1099,
	}})
	if err != nil && !refusal(err) { // there is one from an earlier run
		return err
	}
	if err := d.Admit(ctx); err != nil {
		return err
	}
	n, err := d.Network(ctx, &weftv1.Network{Name: "chaos-out", Type: weftv1.NetworkType_NETWORK_TYPE_FLAT, PhysicalNetwork: "ext1", External: true})
	if err != nil {
		return err
	}
	d.external = n.GetId()
	_, err = d.Subnet(ctx, &weftv1.Subnet{NetworkId: n.GetId(), Cidr: "203.0.113.0/24", EnableDhcp: proto.Bool(false)})
	return err
}

// refusal reports whether a controller answered and did not do it.
func refusal(err error) bool {
	var e *client.Error
	return errors.As(err, &e) && !e.Unreachable()
}

// call makes the call of a step, if it is one.
func (d *driver) call(ctx context.Context, s Step) error {
	request, err := d.request(s)
	if request == nil || err != nil {
		return err
	}
	answer, err := fleet.Do[proto.Message](ctx, d.Fleet, request)
	if err != nil {
		return err
	}
	if made, ok := answer.(interface{ GetId() string }); ok && (s.Op == CreateNetwork || s.Op == CreateSubnet || s.Op == CreatePort || s.Op == CreateRouter || s.Op == CreateFloating) {
		d.ids[s.Name] = made.GetId()
	}
	if p, ok := answer.(*weftv1.Port); ok {
		d.macs[s.Name] = p.GetMacAddress()
	}
	return nil
}

func mask(paths ...string) *fieldmaskpb.FieldMask { return &fieldmaskpb.FieldMask{Paths: paths} }

// request is the call that a step stands for; nil when it stands for none.
func (d *driver) request(s Step) (proto.Message, error) {
	for _, name := range []string{s.Name, s.Of, s.To} {
		if d.ids[name] == "" && named(s, name) {
			return nil, errSkipped
		}
	}
	switch s.Op { //nolint:exhaustive // the others are no calls
	case CreateNetwork, DeleteNetwork, ToggleNetwork, CreateSubnet, DeleteSubnet:
		return d.networkRequest(s), nil
	case CreatePort, TogglePort, MovePort, DeletePort:
		return d.portRequest(s), nil
	case CreateRouter, ToggleRouter, ResizeRouter, MoveRouter, DeleteRouter, AddInterface, RemoveInterface, SetGateway, ClearGateway:
		return d.routerRequest(s), nil
	case CreateFloating, MoveFloating, DeleteFloating:
		return d.floatingRequest(s), nil
	case Drain, Undrain:
		return &weftv1.UpdateNodeRequest{Node: &weftv1.Node{Id: s.Host, Draining: s.Op == Drain}, UpdateMask: mask("draining")}, nil
	default:
		return nil, nil
	}
}

// named reports whether a name in a step is that of an object which must exist.
func named(s Step, name string) bool {
	switch s.Op { //nolint:exhaustive // the others take objects that exist
	case Plug, Unplug:
		return false // checked where it is done
	case CreateNetwork, CreateRouter:
		return false
	case CreateSubnet, CreatePort, CreateFloating:
		return name != s.Name && name != ""
	default:
		return name != ""
	}
}

func (d *driver) networkRequest(s Step) proto.Message {
	switch s.Op { //nolint:exhaustive // see request
	case CreateNetwork:
		n := &weftv1.Network{Name: s.Name}
		switch s.Of {
		case "vlan":
			n.Type, n.PhysicalNetwork = weftv1.NetworkType_NETWORK_TYPE_VLAN, lab.Tenant
		case "gre":
			n.Type = weftv1.NetworkType_NETWORK_TYPE_GRE
		default:
			n.Type = weftv1.NetworkType_NETWORK_TYPE_VXLAN
		}
		return &weftv1.CreateNetworkRequest{Network: n}
	case ToggleNetwork:
		return &weftv1.UpdateNetworkRequest{Network: &weftv1.Network{Id: d.ids[s.Name], AdminStateUp: proto.Bool(s.Up)}, UpdateMask: mask("admin_state_up")}
	case CreateSubnet:
		return &weftv1.CreateSubnetRequest{Subnet: &weftv1.Subnet{
			Name: s.Name, NetworkId: d.ids[s.Of], EnableDhcp: proto.Bool(s.Up),
			Cidr: fmt.Sprintf("10.%d.%d.0/24", 1+s.Number/256%250, s.Number%256),
		}}
	case DeleteSubnet:
		return &weftv1.DeleteSubnetRequest{Id: d.ids[s.Name]}
	default:
		return &weftv1.DeleteNetworkRequest{Id: d.ids[s.Name]}
	}
}

func (d *driver) portRequest(s Step) proto.Message {
	switch s.Op { //nolint:exhaustive // see request
	case CreatePort:
		return &weftv1.CreatePortRequest{Port: &weftv1.Port{
			Name: s.Name, NetworkId: d.ids[d.networkOf(s.Of)], Host: s.Host, FixedIps: []*weftv1.FixedIp{{SubnetId: d.ids[s.Of]}},
		}}
	case TogglePort:
		return &weftv1.UpdatePortRequest{Port: &weftv1.Port{Id: d.ids[s.Name], AdminStateUp: proto.Bool(s.Up)}, UpdateMask: mask("admin_state_up")}
	case MovePort:
		return &weftv1.UpdatePortRequest{Port: &weftv1.Port{Id: d.ids[s.Name], Host: s.Host}, UpdateMask: mask("host")}
	default:
		return &weftv1.DeletePortRequest{Id: d.ids[s.Name]}
	}
}

// networkOf is the network of a subnet that the generator knows.
func (d *driver) networkOf(subnet string) string { return d.generator.subnets[subnet].network }

func (d *driver) routerRequest(s Step) proto.Message {
	id := d.ids[s.Name]
	switch s.Op { //nolint:exhaustive // see request
	case CreateRouter:
		return &weftv1.CreateRouterRequest{Router: &weftv1.Router{Name: s.Name, Ha: int32(s.Number)}} //nolint:gosec // 0 to 3
	case ToggleRouter:
		return &weftv1.UpdateRouterRequest{Router: &weftv1.Router{Id: id, AdminStateUp: proto.Bool(s.Up)}, UpdateMask: mask("admin_state_up")}
	case ResizeRouter:
		return &weftv1.UpdateRouterRequest{Router: &weftv1.Router{Id: id, Ha: int32(s.Number)}, UpdateMask: mask("ha")} //nolint:gosec // 1 to 3
	case MoveRouter:
		return &weftv1.MoveRouterRequest{Id: id, Node: s.Host}
	case AddInterface:
		return &weftv1.AddRouterInterfaceRequest{RouterId: id, Attachment: &weftv1.AddRouterInterfaceRequest_SubnetId{SubnetId: d.ids[s.Of]}}
	case RemoveInterface:
		return &weftv1.RemoveRouterInterfaceRequest{RouterId: id, Attachment: &weftv1.RemoveRouterInterfaceRequest_SubnetId{SubnetId: d.ids[s.Of]}}
	case SetGateway:
		return &weftv1.SetRouterGatewayRequest{RouterId: id, ExternalGateway: &weftv1.ExternalGateway{NetworkId: d.external, EnableSnat: proto.Bool(s.Up)}}
	case ClearGateway:
		return &weftv1.ClearRouterGatewayRequest{RouterId: id}
	default:
		return &weftv1.DeleteRouterRequest{Id: id}
	}
}

func (d *driver) floatingRequest(s Step) proto.Message {
	switch s.Op { //nolint:exhaustive // see request
	case CreateFloating:
		return &weftv1.CreateFloatingIpRequest{FloatingIp: &weftv1.FloatingIp{Name: s.Name, NetworkId: d.external, PortId: d.ids[s.To]}}
	case MoveFloating:
		return &weftv1.UpdateFloatingIpRequest{FloatingIp: &weftv1.FloatingIp{Id: d.ids[s.Name], PortId: d.ids[s.To]}, UpdateMask: mask("port_id", "fixed_ip_address")}
	default:
		return &weftv1.DeleteFloatingIpRequest{Id: d.ids[s.Name]}
	}
}
