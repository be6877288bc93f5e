package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/weft-sdn/weft/agent/dhcpconf"
	"github.com/weft-sdn/weft/agent/metadata"
	"github.com/weft-sdn/weft/agent/metadata/guest"
	"github.com/weft-sdn/weft/agent/metadata/wire"
	"github.com/weft-sdn/weft/agent/view"
	"github.com/weft-sdn/weft/proto/model"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

func (c *MetadataConfig) defaults() {
	for _, d := range []struct {
		field *int
		value int
	}{{&c.BackendTimeoutSeconds, 5}, {&c.RequestsPerSecond, 20}, {&c.Connections, 8}} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	if c.User == "" {
		c.User = "nobody"
	}
	if self, err := os.Executable(); c.Program == "" && err == nil {
		c.Program = filepath.Join(filepath.Dir(self), metadata.ProgramName)
	}
}

func (c *MetadataConfig) validate() []error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf("metadata."+format, args...))
		}
	}
	for _, text := range c.Backends {
		u, err := url.Parse(text)
		check(err == nil && slices.Contains([]string{"http", "https"}, u.Scheme) && u.Host != "" && u.User == nil &&
			strings.TrimSuffix(u.Path, "/")+u.RawQuery+u.Fragment == "", "backends: %q is not of the form http://10.0.0.1:8775 or https://…", text)
	}
	for key, path := range map[string]string{"backend_ca_file": c.BackendCAFile, "secret_file": c.SecretFile} {
		check(path == "" || filepath.IsAbs(path), "%s: %q is not an absolute path", key, path)
	}
	check(filepath.IsAbs(c.Program), "program: %q is not an absolute path", c.Program)
	check(c.BackendTimeoutSeconds >= 1 && c.BackendTimeoutSeconds <= 60, "backend_timeout_seconds: %d is not between 1 and 60", c.BackendTimeoutSeconds)
	check(c.RequestsPerSecond >= 1, "requests_per_second: %d is less than 1", c.RequestsPerSecond)
	check(c.Connections >= 1, "connections: %d is less than 1", c.Connections)
	return errs
}

// newMetadata keeps the node's metadata proxy. On a node that serves no metadata it is nil, and a proxy that an earlier agent
// left is stopped.
func newMetadata(cfg Config, enter func(string, func() error) error, who func(context.Context, wire.Question) (guest.Guest, error), log *slog.Logger) (*metadata.Manager, error) {
	c := cfg.Metadata
	if c.Disabled {
		if err := metadata.Stop(cfg.StateDir, log); err != nil {
			return nil, fmt.Errorf("metadata is disabled: %w", err)
		}
		return nil, nil
	}
	return metadata.New(metadata.Options{
		StateDir: cfg.StateDir, Enter: enter, Program: c.Program, User: c.User, Rate: c.RequestsPerSecond, Connections: c.Connections,
		Backends: c.Backends, BackendCA: c.BackendCAFile, BackendTimeout: time.Duration(c.BackendTimeoutSeconds) * time.Second,
		Secret: c.SecretFile, Guest: who, Log: log,
	})
}

// errNotReady tells that the agent does not know its node yet.
var errNotReady = errors.New("the agent has no complete view of its node yet")

// guest says who has an address at a place: the loop who it is, the store what it is to be told. It is called beside the loop.
func (a *Agent) guest(ctx context.Context, q wire.Question) (guest.Guest, error) {
	type found struct {
		guest.Guest
		device string
		err    error
	}
	answer := make(chan found, 1)
	a.post.send(ctx, func() {
		p, n, ok := asker(a.view, q)
		switch {
		case !a.started:
			answer <- found{err: errNotReady}
		case !ok:
			answer <- found{err: metadata.ErrNobody}
		default:
			answer <- found{guestOf(p, n, q.Source), p.DeviceID, nil}
		}
	})
	select {
	case <-ctx.Done():
		return guest.Guest{}, ctx.Err()
	case f := <-answer:
		if f.err != nil {
			return guest.Guest{}, f.err
		}
		i, err := a.instances.get(ctx, f.Port)
		if err != nil {
			return guest.Guest{}, err
		}
		instruct(&f.Guest, i, f.device)
		return f.Guest, nil
	}
}

// asker finds the VM's port that a question is about.
func asker(v *view.View, q wire.Question) (model.Port, *view.Network, bool) {
	if q.Router != "" {
		return v.BehindRouter(q.Router, q.Source)
	}
	return v.OnNetwork(q.Network, q.Source)
}

// guestOf is what the view knows of a VM that asks by one of its port's addresses.
func guestOf(p model.Port, n *view.Network, source netip.Addr) guest.Guest {
	g := guest.Guest{
		Port: p.ID, Network: p.Network, Project: p.Project, Hostname: dhcpconf.Label(source), Domain: n.Object.Domain, MAC: p.MAC, MTU: n.Object.MTU,
	}
	for _, f := range p.FixedIPs {
		s, ok := n.Subnets[f.Subnet]
		if !ok || !f.IP.Is4() {
			continue
		}
		a := guest.Address{
			Prefix: netip.PrefixFrom(f.IP, s.Object.CIDR.Bits()), Gateway: s.Object.Gateway, DNS: slices.Clone(s.Object.DNS), DHCP: s.Object.DHCP,
		}
		for _, r := range s.Object.Routes {
			a.Routes = append(a.Routes, guest.Route{Destination: r.Destination, Via: r.NextHop})
		}
		g.Addresses = append(g.Addresses, a)
	}
	return g
}

// instruct adds what is stored for the VM; nil is nothing.
func instruct(g *guest.Guest, i *weftv1.Instance, device string) {
	g.Instance = i.GetId()
	for _, other := range []string{device, g.Port} {
		if g.Instance == "" {
			g.Instance = other
		}
	}
	if h := i.GetHostname(); h != "" {
		g.Hostname = h
	}
	g.Keys, g.UserData, g.Metadata = i.GetPublicKeys(), i.GetUserData(), i.GetMetadata()
}
