package main

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/weft-sdn/weft/e2e/lab"
)

func (s *session) fault() *cobra.Command {
	cmd := &cobra.Command{Use: "fault", Short: "Break things and mend them"}
	type act = func(*lab.Host, context.Context, lab.Daemon) error
	cmd.AddCommand(
		s.daemonFault("kill", "End a daemon with SIGKILL", act((*lab.Host).Kill)),
		s.daemonFault("stop", "End a daemon with SIGTERM", act((*lab.Host).Stop)),
		s.daemonFault("pause", "Hold a daemon with SIGSTOP", act((*lab.Host).Pause)),
		s.daemonFault("resume", "Let a paused daemon go on", act((*lab.Host).Resume)),
		s.daemonFault("start", "Start a daemon that was killed or stopped", act((*lab.Host).Start)),
		s.powerFault("power-off", "Kill a host as loss of power does", (*lab.Host).PowerOff),
		s.powerFault("power-on", "Boot a host with the disk that it had", (*lab.Host).PowerOn),
		s.powerFault("reboot", "Switch a host off and on, with its disk", (*lab.Host).Reboot),
		s.powerFault("restart-ovs", "Restart Open vSwitch with ovs-ctl, as an upgrade does", (*lab.Host).RestartOVS),
		s.cableFault("cut", "Lose all frames between a host and a network; the host sees nothing", (*lab.Host).Cut),
		s.cableFault("cut-carrier", "Break the cable between a host and a network; the host's device has no carrier", (*lab.Host).CutCarrier),
		s.cableFault("heal", "Undo cut and cut-carrier", (*lab.Host).Heal),
	)
	return cmd
}

func (s *session) daemonFault(verb, short string, act func(*lab.Host, context.Context, lab.Daemon) error) *cobra.Command {
	return &cobra.Command{
		Use: verb + " HOST DAEMON", Short: short, Args: cobra.ExactArgs(2), ValidArgsFunction: s.completeHosts,
		RunE: func(cmd *cobra.Command, args []string) error {
			daemon := lab.Daemon(args[1])
			if !slices.Contains(lab.Daemons(), daemon) {
				return fmt.Errorf("daemon %q: use one of %v", args[1], lab.Daemons())
			}
			h, err := s.host(args[0])
			if err != nil {
				return err
			}
			return act(h, cmd.Context(), daemon)
		},
	}
}

func (s *session) powerFault(verb, short string, act func(*lab.Host, context.Context) error) *cobra.Command {
	return &cobra.Command{
		Use: verb + " HOST", Short: short, Args: cobra.ExactArgs(1), ValidArgsFunction: s.completeHosts,
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := s.host(args[0])
			if err != nil {
				return err
			}
			return act(h, cmd.Context())
		},
	}
}

func (s *session) cableFault(verb, short string, act func(*lab.Host, string) error) *cobra.Command {
	return &cobra.Command{
		Use: verb + " HOST underlay|management|external|tenant|extN", Short: short, Args: cobra.ExactArgs(2), ValidArgsFunction: s.completeHosts,
		RunE: func(_ *cobra.Command, args []string) error {
			h, err := s.host(args[0])
			if err != nil {
				return err
			}
			return act(h, args[1])
		},
	}
}

func (s *session) external() *cobra.Command {
	cmd := &cobra.Command{Use: "external", Short: "The outside hosts of the external networks"}
	cmd.AddCommand(
		&cobra.Command{
			Use: "exec NETWORK -- CMD…", Short: "Run a command on the outside host of ext1, ext2, …", Args: cobra.MinimumNArgs(2),
			RunE: func(cmd *cobra.Command, args []string) error {
				e, err := s.findExternal(args[0])
				if err != nil {
					return err
				}
				return runInside(cmd.Context(), e.Space, args[1:])
			},
		},
		&cobra.Command{
			Use: "vlan NETWORK ID ADDRESS/BITS", Short: "Give the outside host an address on a VLAN", Args: cobra.ExactArgs(3),
			RunE: func(cmd *cobra.Command, args []string) error {
				return s.addVLAN(cmd.Context(), args[0], args[1], args[2])
			},
		})
	return cmd
}

func (s *session) findExternal(network string) (*lab.External, error) {
	l, err := s.open()
	if err != nil {
		return nil, err
	}
	return l.External(network)
}

func (s *session) addVLAN(ctx context.Context, network, id, address string) error {
	number, err := strconv.Atoi(id)
	if err != nil {
		return fmt.Errorf("VLAN %q is not a number: %w", id, err)
	}
	prefix, err := netip.ParsePrefix(address)
	if err != nil {
		return fmt.Errorf("address %q: %w", address, err)
	}
	e, err := s.findExternal(network)
	if err != nil {
		return err
	}
	return e.AddVLAN(ctx, number, prefix)
}
