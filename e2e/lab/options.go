package lab

import (
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
)

// Root is the folder of all labs on the machine.
const Root = "/run/weft-lab"

// DefaultName is the name of the lab that is meant when none is given.
const DefaultName = "default"

// Software says what runs in the hosts.
type Software string

// The levels of software.
const (
	Weft    Software = "weft"    // Open vSwitch, etcd, controllers and agents
	OVSOnly Software = "ovsonly" // Open vSwitch with the operator's bridges, and no weft
)

// Options describes a lab to bring up. Numbers are taken literally, zero included; Defaults gives the usual ones.
type Options struct {
	Name         string // lower-case letters, digits and dashes; "" is DefaultName
	NetworkNodes int    // net1, net2, …
	ComputeNodes int    // cmp1, cmp2, …
	Controllers  int    // ctl1, ctl2, …
	Etcd         int    // etcd1, …: 1 or 3 members; 0 embeds etcd in ctl1
	Externals    int    // physical networks ext1, ext2, … with an outside host each

	Software    Software     // "" is Weft
	Bin         string       // folder of weft, weft-controller, weft-agent and weft-metadata; "" is the folder of Executable
	Executable  string       // the program that becomes the hosts; "" is the running one
	UnderlayMTU int          // octets; 0 is 1500
	LogLevel    string       // of the weft daemons: debug, info, …; "" is info
	Log         *slog.Logger // progress; nil discards it
}

// Defaults is the lab that `weft-lab up` brings up.
func Defaults() Options {
	return Options{Name: DefaultName, NetworkNodes: 2, ComputeNodes: 2, Controllers: 1, Etcd: 1, Externals: 2, UnderlayMTU: 1500}
}

var nameForm = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,23}$`)

// limits keep every address of the plan distinct, see number.
var limits = map[Kind]int{Controller: 9, EtcdMember: 9, Network: 69, Compute: 149, Outside: 3}

// checkName keeps names out of the file system's syntax and paths within a unix socket's 108 octets.
func checkName(name string) error {
	if !nameForm.MatchString(name) {
		return fmt.Errorf("lab name %q: use 1 to 24 lower-case letters, digits and dashes", name)
	}
	return nil
}

// complete fills in what was left empty and refuses what cannot work.
func (o Options) complete() (Options, error) {
	if o.Name == "" {
		o.Name = DefaultName
	}
	if err := checkName(o.Name); err != nil {
		return o, err
	}
	if o.Software == "" {
		o.Software = Weft
	}
	if o.LogLevel == "" {
		o.LogLevel = "info"
	}
	if o.UnderlayMTU == 0 {
		o.UnderlayMTU = 1500
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if err := o.locate(); err != nil {
		return o, err
	}
	return o, o.checkCounts()
}

// locate finds the programs.
func (o *Options) locate() error {
	if o.Executable == "" {
		self, err := os.Executable()
		if err != nil {
			return fmt.Errorf("find the running program: %w", err)
		}
		o.Executable = self
	}
	if o.Bin == "" {
		o.Bin = filepath.Dir(o.Executable)
	}
	bin, err := filepath.Abs(o.Bin) // hosts start programs from other folders
	if err != nil {
		return fmt.Errorf("folder of binaries %q: %w", o.Bin, err)
	}
	o.Bin = bin
	return nil
}

func (o Options) checkCounts() error {
	if o.UnderlayMTU < 576 || o.UnderlayMTU > 65535 {
		return fmt.Errorf("underlay MTU %d: use 576 (RFC 791) to 65535", o.UnderlayMTU)
	}
	for kind, n := range o.counts() {
		if n < 0 || n > limits[kind] {
			return fmt.Errorf("%d hosts of kind %s: a lab has 0 to %d", n, kind, limits[kind])
		}
	}
	if o.Etcd != 0 && o.Etcd != 1 && o.Etcd != 3 {
		return fmt.Errorf("%d etcd members: use 1 or 3, or 0 for the one embedded in ctl1", o.Etcd)
	}
	if o.Software == Weft && o.Controllers == 0 {
		return fmt.Errorf("a lab with weft needs at least one controller")
	}
	return nil
}

func (o Options) counts() map[Kind]int {
	return map[Kind]int{
		Controller: o.Controllers, EtcdMember: o.Etcd, Network: o.NetworkNodes, Compute: o.ComputeNodes, Outside: o.Externals,
	}
}

// checkPrograms finds out what is missing before anything is started.
func (o Options) checkPrograms() error {
	programs := []string{"nsenter", "ip", "ovs-vswitchd", "ovsdb-server", "ovsdb-tool", "ovs-vsctl"}
	if o.Etcd > 0 {
		programs = append(programs, "etcd")
	}
	for _, program := range programs {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("%s is missing: install Debian's util-linux, iproute2, openvswitch-switch and etcd-server: %w", program, err)
		}
	}
	if o.Software != Weft {
		return nil
	}
	for _, program := range []string{"weft-controller", "weft-agent", "weft-metadata"} {
		path := filepath.Join(o.Bin, program)
		if _, err := os.Stat(path); err != nil {
			return fmt.Errorf("%s is missing: run `make build`, or name the folder of the binaries (--bin): %w", path, err)
		}
	}
	return nil
}
