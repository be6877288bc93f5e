// Package fleet speaks to a lab's API for programs that break labs: every controller at once, going on with the next when
// one dies, each mutation done once. It fails no test and prints nothing; scenarios in package e2e have a face of their own.
package fleet

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/cmd/weft/cli/client"
	"github.com/weft-sdn/weft/controller/quota"
	"github.com/weft-sdn/weft/controller/secgroup"
	"github.com/weft-sdn/weft/e2e/lab"
	"github.com/weft-sdn/weft/proto/model"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// Fleet is a lab with a client of its API. It is safe for concurrent use.
type Fleet struct {
	*lab.Lab
	client *client.Client
}

// Open connects to all controllers of a lab. Timeout bounds each call. Close it after use.
func Open(l *lab.Lab, timeout time.Duration) (*Fleet, error) {
	servers, err := l.Server()
	if err != nil {
		return nil, err
	}
	c, err := client.New(client.Options{Servers: strings.Split(servers, ","), Timeout: timeout})
	if err != nil {
		return nil, fmt.Errorf("lab %s: %w", l.Name(), err)
	}
	return &Fleet{Lab: l, client: c}, nil
}

// Close ends the connection.
func (f *Fleet) Close() error { return f.client.Close() }

// Do makes the call that takes a request. R is the type of its answer.
func Do[R proto.Message](ctx context.Context, f *Fleet, request proto.Message) (R, error) {
	var none R
	answer, err := f.client.Do(ctx, request)
	if err != nil {
		return none, fmt.Errorf("%s: %w", request.ProtoReflect().Descriptor().Name(), err)
	}
	out, ok := answer.(R)
	if !ok {
		return none, fmt.Errorf("%s: the answer is a %T", request.ProtoReflect().Descriptor().Name(), answer)
	}
	return out, nil
}

// Network makes a network.
func (f *Fleet) Network(ctx context.Context, n *weftv1.Network) (*weftv1.Network, error) {
	return Do[*weftv1.Network](ctx, f, &weftv1.CreateNetworkRequest{Network: n})
}

// Subnet makes a subnet.
func (f *Fleet) Subnet(ctx context.Context, s *weftv1.Subnet) (*weftv1.Subnet, error) {
	return Do[*weftv1.Subnet](ctx, f, &weftv1.CreateSubnetRequest{Subnet: s})
}

// Port makes a port.
func (f *Fleet) Port(ctx context.Context, p *weftv1.Port) (*weftv1.Port, error) {
	return Do[*weftv1.Port](ctx, f, &weftv1.CreatePortRequest{Port: p})
}

// Router makes a router with interfaces in subnets and, when external is not "", a gateway on that network.
func (f *Fleet) Router(ctx context.Context, r *weftv1.Router, external string, subnets ...string) (*weftv1.Router, error) {
	out, err := Do[*weftv1.Router](ctx, f, &weftv1.CreateRouterRequest{Router: r})
	for _, s := range subnets {
		if err == nil {
			out, err = Do[*weftv1.Router](ctx, f, &weftv1.AddRouterInterfaceRequest{
				RouterId: out.GetId(), Attachment: &weftv1.AddRouterInterfaceRequest_SubnetId{SubnetId: s},
			})
		}
	}
	if external != "" && err == nil {
		out, err = Do[*weftv1.Router](ctx, f, &weftv1.SetRouterGatewayRequest{
			RouterId: out.GetId(), ExternalGateway: &weftv1.ExternalGateway{NetworkId: external},
		})
	}
	return out, err
}

// FloatingIP makes a floating IP that leads to a port.
func (f *Fleet) FloatingIP(ctx context.Context, external, port string) (*weftv1.FloatingIp, error) {
	return Do[*weftv1.FloatingIp](ctx, f, &weftv1.CreateFloatingIpRequest{FloatingIp: &weftv1.FloatingIp{NetworkId: external, PortId: port}})
}

// Admission are the calls after which anybody may reach, over IPv4, the ports of the project "default" that name no security
// group: fixtures are pinged from outside.
func Admission() (*weftv1.CreateSecurityGroupRequest, *weftv1.CreateSecurityGroupRuleRequest) {
	return &weftv1.CreateSecurityGroupRequest{SecurityGroup: &weftv1.SecurityGroup{Name: model.DefaultGroup, Project: model.DefaultProject}},
		&weftv1.CreateSecurityGroupRuleRequest{SecurityGroupRule: &weftv1.SecurityGroupRule{
			SecurityGroupId: secgroup.DefaultID(model.DefaultProject), Direction: weftv1.Direction_DIRECTION_INGRESS,
		}}
}

// Admit makes the calls of Admission, unless they have been made.
func Admit(ctx context.Context, c weftv1.SecurityGroupServiceClient) error {
	group, rule := Admission()
	if _, err := c.CreateSecurityGroup(ctx, group); err != nil && status.Code(err) != codes.AlreadyExists {
		return fmt.Errorf("make the default group: %w", err)
	}
	if _, err := c.CreateSecurityGroupRule(ctx, rule); err != nil && status.Code(err) != codes.AlreadyExists {
		return fmt.Errorf("open the default group: %w", err)
	}
	return nil
}

// Admit is the function Admit.
func (f *Fleet) Admit(ctx context.Context) error {
	group, rule := Admission()
	for _, request := range []proto.Message{group, rule} {
		var refusal *client.Error
		if _, err := f.client.Do(ctx, request); err != nil && (!errors.As(err, &refusal) || refusal.Code != codes.AlreadyExists) {
			return fmt.Errorf("open the default group: %w", err)
		}
	}
	return nil
}

// Unlimited lifts the quota of the project "default", for fixtures that have more than projects may by default.
func Unlimited(ctx context.Context, c weftv1.QuotaServiceClient) error {
	request := &weftv1.SetQuotaRequest{Project: model.DefaultProject}
	for _, k := range quota.Kinds() {
		request.Limits = append(request.Limits, &weftv1.QuotaLimit{Kind: k.Enum, Limit: quota.Unlimited})
	}
	if _, err := c.SetQuota(ctx, request); err != nil {
		return fmt.Errorf("lift the quota: %w", err)
	}
	return nil
}

// Until asks every 20 ms until a condition holds, or the context ends; then it says what the condition last said.
func Until(ctx context.Context, what string, holds func(context.Context) error) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		err := holds(ctx)
		if err == nil {
			return nil
		}
		if last == nil || ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited in vain until %s: %w", what, errors.Join(ctx.Err(), last))
		case <-tick.C:
		}
	}
}
