package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weft-sdn/weft/e2e/lab"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

func (s *session) vm() *cobra.Command {
	cmd := &cobra.Command{Use: "vm", Short: "Namespaces that behave as VMs"}
	cmd.AddCommand(s.vmAdd(), s.vmExec(), s.vmDel())
	return cmd
}

func (s *session) vmAdd() *cobra.Command {
	var host, port string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use: "add NAME --host H --port PORT", Short: "Plug a VM into a port as its vif_type says, get its address by DHCP and print it", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			l, err := s.open()
			if err != nil {
				return err
			}
			spec, err := findPort(ctx, l, port)
			if err != nil {
				return err
			}
			spec.Name, spec.Host = args[0], host
			vm, err := l.AddVM(ctx, spec)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), vm.Spec.Lease.Address.Addr())
			return err
		},
	}
	cmd.Flags().StringVar(&host, "host", "", "host that runs the VM (required)")
	cmd.Flags().StringVar(&port, "port", "", "name or id of the weft port (required)")
	cmd.Flags().DurationVar(&timeout, "timeout", 30*time.Second, "give up, and remove the VM, after this time without an address")
	for _, name := range []string{"host", "port"} {
		if err := cmd.MarkFlagRequired(name); err != nil {
			panic(err) // the flag is defined a few lines above
		}
	}
	return cmd
}

// findPort asks the lab's controller, through the command line client as an operator would, what a VM with the port is like.
func findPort(ctx context.Context, l *lab.Lab, port string) (lab.VMSpec, error) {
	bin, err := l.Bin()
	if err != nil {
		return lab.VMSpec{}, err
	}
	env, err := l.Env()
	if err != nil {
		return lab.VMSpec{}, err
	}
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "weft"), "port", "show", "-o", "json", "--", port)
	cmd.Env = os.Environ()
	for name, value := range env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	cmd.Stderr = &stderr
	text, err := cmd.Output()
	if err != nil {
		return lab.VMSpec{}, fmt.Errorf("find port %q: weft port show: %w: %s", port, err, strings.TrimSpace(stderr.String()))
	}
	return parsePort(text)
}

func parsePort(text []byte) (lab.VMSpec, error) {
	var shown struct {
		ID  string `json:"id"`
		MAC string `json:"mac_address"`
		VIF string `json:"vif_type"`
	}
	if err := json.Unmarshal(text, &shown); err != nil {
		return lab.VMSpec{}, fmt.Errorf("read what weft port show printed: %w", err)
	}
	if shown.ID == "" || shown.MAC == "" {
		return lab.VMSpec{}, fmt.Errorf("weft port show printed no id or no mac_address: %s", text)
	}
	return lab.VMSpec{Port: lab.Port{ID: shown.ID, MAC: shown.MAC}, Hybrid: shown.VIF == weftv1.VifType_VIF_TYPE_HYBRID.String()}, nil
}

func (s *session) findVM(name string) (*lab.VM, error) {
	l, err := s.open()
	if err != nil {
		return nil, err
	}
	return l.VM(name)
}

func (s *session) vmExec() *cobra.Command {
	return &cobra.Command{
		Use: "exec NAME -- CMD…", Short: "Run a command in a VM", Args: cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			vm, err := s.findVM(args[0])
			if err != nil {
				return err
			}
			return runInside(cmd.Context(), vm.Space, args[1:])
		},
	}
}

func (s *session) vmDel() *cobra.Command {
	return &cobra.Command{
		Use: "del NAME", Short: "Unplug and remove a VM", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			vm, err := s.findVM(args[0])
			if err != nil {
				return err
			}
			return vm.Remove(cmd.Context())
		},
	}
}
