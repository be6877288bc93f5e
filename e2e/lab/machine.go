package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
)

// priority is the niceness that ovs-ctl gives both of Open vSwitch's daemons by default (ovs-ctl(8), --ovs-vswitchd-priority), and
// deploy/systemd the agent. Without it a busy lab's nodes lose each other's BFD packets, which real ones would not. An etcd has
// it too, for it would have a machine of its own.
const priority = "-10"

// favoured are the daemons that have the priority.
func favoured() []Daemon { return []Daemon{OVSDBDaemon, VSwitchDaemon, AgentDaemon, EtcdDaemon} }

// favour gives a host's daemons their priority among all of the lab. Where the kernel groups processes by session, niceness
// counts within a session only (sched(7), "The autogroup feature"); on a host the services share one group.
func (l *Lab) favour(name string) error {
	s, err := l.load()
	if err != nil {
		return err
	}
	h, err := s.host(name)
	if err != nil {
		return err
	}
	for _, d := range favoured() {
		running, err := l.processes(*h, d)
		if err != nil {
			return err
		}
		for _, p := range running {
			file := filepath.Join("/proc", strconv.Itoa(p.PID), "autogroup")
			if err := os.WriteFile(file, []byte(priority), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("host %s: priority of %s: %w", name, d, err)
			}
		}
	}
	return nil
}

// rcuExpedited is the machine's switch for quick grace periods (Documentation/admin-guide/kernel-parameters.txt,
// rcupdate.rcu_expedited). Open vSwitch's userspace datapath has a packet socket for each port, and the kernel takes some
// 13 ms to close one without it (synchronize_net in packet_release, net/packet/af_packet.c): an ovs-vswitchd with a hundred
// ports needs more than a second to die, and serves nothing while it deletes some. docs/architecture.md tells operators.
const rcuExpedited = "/sys/kernel/rcu_expedited"

// rcuBefore keeps what the switch was before the first lab came up.
func rcuBefore() string { return filepath.Join(Root, ".rcu_expedited") }

// hasten sets the switch. Kernels that have none are as they are.
func hasten(ctx context.Context) error {
	unlock, err := lock(ctx, rcuBefore())
	if err != nil {
		return err
	}
	defer unlock()
	if before, err := os.ReadFile(rcuBefore()); err != nil || len(before) > 0 {
		return err // another lab has set it
	}
	before, err := os.ReadFile(rcuExpedited)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return errors.Join(err, os.WriteFile(rcuBefore(), before, 0o644), os.WriteFile(rcuExpedited, []byte("1"), 0))
}

// relax puts the switch back when no lab is left but such as were killed.
func relax(ctx context.Context) error {
	unlock, err := lock(ctx, rcuBefore())
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the common folder has gone
	}
	if err != nil {
		return err
	}
	defer unlock()
	if left, err := inUse(); err != nil || left {
		return err
	}
	before, err := os.ReadFile(rcuBefore())
	if err == nil && len(before) > 0 {
		err = os.WriteFile(rcuExpedited, before, 0)
	}
	return errors.Join(err, os.Remove(rcuBefore()))
}

// inUse reports whether a lab is up, or somebody brings one up or takes it down.
func inUse() (bool, error) {
	names, err := Names()
	if err != nil {
		return false, err
	}
	for _, name := range names {
		l, err := handle(name, nil)
		if err != nil {
			return false, err
		}
		if idle, err := l.idle(); err != nil || !idle {
			return !idle, err
		}
	}
	return false, nil
}

// idle reports whether nothing of a lab runs and nobody works on it: what there is of it is what one left that was killed.
func (l *Lab) idle() (bool, error) {
	atOnce, cancel := context.WithCancel(context.Background())
	cancel()
	unlock, err := lock(atOnce, l.operationLock())
	switch {
	case errors.Is(err, context.Canceled):
		return false, nil
	case errors.Is(err, fs.ErrNotExist):
		return true, nil
	case err != nil:
		return false, err
	}
	defer unlock()
	inits, err := l.inits()
	return len(inits) == 0, err
}
