package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/weft-sdn/weft/e2e/lab"
)

func (s *session) up() *cobra.Command {
	o := lab.Defaults()
	var bare bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use: "up", Short: "Bring the lab up; returns when it serves", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			o.Name, o.Log = s.name, s.log()
			if bare {
				o.Software = lab.OVSOnly
			}
			return bringUp(ctx, cmd.OutOrStdout(), o)
		},
	}
	f := cmd.Flags()
	f.IntVar(&o.NetworkNodes, "network-nodes", o.NetworkNodes, "network nodes net1, net2, …")
	f.IntVar(&o.ComputeNodes, "compute-nodes", o.ComputeNodes, "compute nodes cmp1, cmp2, …")
	f.IntVar(&o.Controllers, "controllers", o.Controllers, "controllers ctl1, ctl2, …")
	f.IntVar(&o.Etcd, "etcd", o.Etcd, "etcd members, 1 or 3; 0 embeds etcd in ctl1")
	f.IntVar(&o.Externals, "externals", o.Externals, "external networks ext1, ext2, … with an outside host each")
	f.StringVar(&o.Bin, "bin", "", "folder of weft's binaries (default: that of weft-lab)")
	f.IntVar(&o.UnderlayMTU, "underlay-mtu", 1500, "octets")
	f.StringVar(&o.LogLevel, "log-level", "info", "log level of weft's daemons")
	f.BoolVar(&bare, "bare", false, "hosts with Open vSwitch only, no weft")
	f.DurationVar(&timeout, "timeout", 2*time.Minute, "give up, and leave nothing behind, after this time")
	return cmd
}

func bringUp(ctx context.Context, out io.Writer, o lab.Options) error {
	began := time.Now()
	l, err := lab.Up(ctx, o)
	if err != nil {
		return err
	}
	hosts, err := l.Hosts()
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "lab %s is up: %d hosts in %v\n", l.Name(), len(hosts), time.Since(began).Round(10*time.Millisecond))
	return nil
}

func (s *session) down() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use: "down", Short: "Remove the lab with everything in it, whatever its state", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			return lab.Down(ctx, s.name)
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", time.Minute, "give up after this time")
	return cmd
}

func (s *session) list() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the labs on this machine", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			names, err := lab.Names()
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "LAB\tHOSTS\tON\tVMS")
			for _, name := range names {
				fmt.Fprintln(w, s.summary(name))
			}
			return w.Flush()
		},
	}
}

// summary is a lab's line in the list. Of one that is broken it says what is wrong.
func (s *session) summary(name string) string {
	l, err := lab.Open(name, s.log())
	if err != nil {
		return fmt.Sprintf("%s\t%v", name, err)
	}
	status, err := l.Status()
	if err != nil {
		return fmt.Sprintf("%s\t%v", name, err)
	}
	on := 0
	for _, h := range status.Hosts {
		if h.Power == "on" {
			on++
		}
	}
	return fmt.Sprintf("%s\t%d\t%d\t%d", name, len(status.Hosts), on, len(status.VMs))
}

func (s *session) env() *cobra.Command {
	return &cobra.Command{
		Use: "env", Short: `Print the shell's settings for this lab: eval "$(weft-lab env)"`, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := s.open()
			if err != nil {
				return err
			}
			env, err := l.Env()
			if err != nil {
				return err
			}
			for _, name := range []string{"WEFT_LAB", "WEFT_SERVER", "WEFT_TLS_DIR", "PATH"} {
				fmt.Fprintf(cmd.OutOrStdout(), "export %s='%s'\n", name, strings.ReplaceAll(env[name], "'", `'\''`))
			}
			return nil
		},
	}
}

func (s *session) dump() *cobra.Command {
	return &cobra.Command{
		Use: "dump", Short: "Print the state of every host: bridges, flows, namespaces, NAT, processes, logs", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := s.open()
			if err != nil {
				return err
			}
			return l.Dump(cmd.Context(), cmd.OutOrStdout())
		},
	}
}

func (s *session) status() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use: "status", Short: "Show hosts, their daemons and faults, and VMs", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := s.open()
			if err != nil {
				return err
			}
			status, err := l.Status()
			if err != nil {
				return err
			}
			switch format {
			case "json":
				encoder := json.NewEncoder(cmd.OutOrStdout())
				encoder.SetIndent("", "  ")
				return encoder.Encode(status)
			case "table":
				return printStatus(cmd.OutOrStdout(), status)
			default:
				return fmt.Errorf("output format %q: use table or json", format)
			}
		},
	}
	cmd.Flags().StringVarP(&format, "output", "o", "table", "table or json")
	return cmd
}

func printStatus(out io.Writer, status lab.Status) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "HOST\tKIND\tMANAGEMENT\tTUNNEL\tPOWER\tDAEMONS\tCUT")
	for _, h := range status.Hosts {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", h.Name, h.Kind, address(h.Management), address(h.Tunnel),
			h.Power, orDash(daemons(h)), orDash(strings.Join(h.Cuts, " ")))
	}
	if len(status.VMs) > 0 {
		fmt.Fprintln(w, "\nVM\tHOST\tDEVICE\tADDRESS\tMAC\tPORT")
	}
	for _, vm := range status.VMs {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", vm.Name, vm.Host, vm.Device, address(vm.Lease.Address), vm.Port.MAC, vm.Port.ID)
	}
	return w.Flush()
}

func daemons(h lab.HostStatus) string {
	var texts []string
	for _, d := range h.Daemons {
		text := string(d.Daemon)
		if d.Count > 1 {
			text = fmt.Sprintf("%s×%d", text, d.Count)
		}
		if d.Paused {
			text += " (paused)"
		}
		texts = append(texts, text)
	}
	return strings.Join(texts, " ")
}

// address shows nothing for an address that is not there.
func address(a interface {
	IsValid() bool
	String() string
},
) string {
	if !a.IsValid() {
		return "-"
	}
	return a.String()
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func (s *session) exec() *cobra.Command {
	return &cobra.Command{
		Use: "exec HOST -- CMD…", Short: "Run a command in a host, with its mounts, network and processes", Args: cobra.MinimumNArgs(2),
		ValidArgsFunction: s.completeHosts,
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := s.host(args[0])
			if err != nil {
				return err
			}
			return runInside(cmd.Context(), h.Space, args[1:])
		},
	}
}

func (s *session) completeHosts(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	l, err := s.open()
	if err != nil || len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	hosts, err := l.Hosts()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var names []string
	for _, h := range hosts {
		names = append(names, h.Name)
	}
	slices.Sort(names)
	return names, cobra.ShellCompDirectiveNoFileComp
}
