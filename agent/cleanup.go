package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"

	"github.com/weft-sdn/weft/agent/hybrid"
	"github.com/weft-sdn/weft/agent/metadata"
	"github.com/weft-sdn/weft/agent/openflow"
	"github.com/weft-sdn/weft/agent/ovs"
	"github.com/weft-sdn/weft/agent/plan"
)

// Cleanup takes everything of weft off a node on which no agent runs: DHCP servers, routers, ports, tags, flows, and the
// bridges br-int and br-tun. It does not talk to the store. Strangers' things stay, among them a bridge of weft's that
// a stranger's port sits on, which is an error that names it. Idempotent: what is gone already is success.
func Cleanup(ctx context.Context, cfg Config, log *slog.Logger) error {
	client, err := ovs.Start(ovs.Options{Endpoint: cfg.OVSDB, Logger: log})
	if err != nil {
		return err
	}
	defer client.Close()
	services, err := newServices(ctx, cfg, newSwitching(client, client.Snapshot, nil), log)
	if err != nil {
		return err
	}
	defer services.close()
	snap, err := client.WaitReady(ctx)
	if err != nil {
		return fmt.Errorf("read OVSDB at %s: %w", cfg.OVSDB, err)
	}
	errs := []error{removeFlows(ctx, cfg, snap, log), metadata.Stop(cfg.StateDir, log), services.stopDHCP(ctx), removePorts(ctx, client, snap)}
	return errors.Join(append(errs, services.removeAll(ctx), services.filters.Apply(ctx, &hybrid.Filters{}))...)
}

// removeFlows takes weft's flows off the operator's bridges.
func removeFlows(ctx context.Context, cfg Config, snap *ovs.Snapshot, log *slog.Logger) error {
	var errs []error
	for _, bridge := range cfg.BridgeMappings {
		if snap.Bridges[bridge] == nil {
			continue
		}
		conn, err := openflow.Dial(ctx, openflow.Options{Socket: filepath.Join(cfg.OVSRunDir, bridge+".mgmt"), Logger: log})
		if err == nil {
			_, err = conn.Sync(ctx, nil)
			err = errors.Join(err, conn.Close())
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("flows of bridge %s: %w", bridge, err))
		}
	}
	return errors.Join(errs...)
}

// removePorts deletes weft's ports and bridges and takes back its tags.
func removePorts(ctx context.Context, client *ovs.Client, snap *ovs.Snapshot) error {
	change := ovs.Change{Wait: true}
	for name, p := range snap.Ports {
		switch {
		case p.Owner() != "" && name != p.Bridge: // a bridge's own port goes with it
			change.DeletePorts = append(change.DeletePorts, name)
		case p.ExternalIDs[ovs.TagKey] != "":
			change.ClearTags = append(change.ClearTags, name)
		}
	}
	for _, name := range []string{plan.BrInt, plan.BrTun} {
		if b := snap.Bridges[name]; b != nil && b.Owner() != "" {
			change.DeleteBridges = append(change.DeleteBridges, name)
		}
	}
	result, err := client.Ensure(ctx, change)
	errs := []error{err}
	for _, r := range result.Refused {
		errs = append(errs, r)
	}
	return errors.Join(errs...)
}

func (s *services) stopDHCP(ctx context.Context) error {
	networks, err := s.dhcp.List()
	errs := []error{err}
	for _, network := range networks {
		errs = append(errs, s.dhcp.Delete(ctx, network))
	}
	return errors.Join(errs...)
}

// removeAll removes the namespaces, whose ports OVS has deleted.
func (s *services) removeAll(ctx context.Context) error {
	units, err := s.leftovers()
	errs := []error{err}
	for _, u := range slices.Compact(units) {
		errs = append(errs, s.remove(ctx, u))
	}
	return errors.Join(errs...)
}
