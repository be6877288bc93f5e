package lab

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/weft-sdn/weft/e2e/lab/procfs"
)

// PowerOff kills a host as loss of power does: every process in it ends at once, VMs included, and nothing is written
// any more. It returns when the host is gone and its switch ports too. A host that is off already is success.
func (h *Host) PowerOff(ctx context.Context) error {
	unlock, err := lock(ctx, h.lab.operationLock())
	if err != nil {
		return err
	}
	defer unlock()
	info, err := h.now()
	if err != nil {
		return err
	}
	if info.Kind == switchKind {
		return fmt.Errorf("%s is not a host: it holds the lab together", info.Name)
	}
	return h.lab.cutPower(ctx, info)
}

// cutPower also clears up after a host whose pid 1 was killed by somebody else.
func (l *Lab) cutPower(ctx context.Context, h HostInfo) error {
	if h.On() && h.Alive() {
		if err := endAll(ctx, []procfs.Process{{ID: h.ID}}); err != nil {
			return fmt.Errorf("power host %s off: %w", h.Name, err)
		}
	}
	if err := l.pullCables(h); err != nil {
		return fmt.Errorf("power host %s off: %w", h.Name, err)
	}
	return l.update(func(s *state) error {
		info, err := s.host(h.Name)
		if err != nil {
			return err
		}
		info.ID = procfs.ID{}
		s.VMs = slices.DeleteFunc(s.VMs, func(v VMInfo) bool { return v.Host == h.Name })
		return nil
	})
}

// PowerOn boots a host with the disk that it had, and its daemons as at the lab's start. A host that is on is success. A
// host that does not come up is left off.
func (h *Host) PowerOn(ctx context.Context) error {
	unlock, err := lock(ctx, h.lab.operationLock())
	if err != nil {
		return err
	}
	defer unlock()
	s, err := h.lab.load()
	if err != nil {
		return err
	}
	info, err := s.host(h.Info.Name)
	if err != nil {
		return err
	}
	if info.On() && info.Alive() {
		return nil
	}
	if err := h.lab.cutPower(ctx, *info); err != nil { // what is left of one that was killed
		return err
	}
	if err := h.lab.bootWithDaemons(ctx, s.Software, *info); err != nil {
		return errors.Join(err, h.giveUp(ctx))
	}
	return nil
}

// Reboot switches a host off and on: its disk stays, all else is empty, /run too.
func (h *Host) Reboot(ctx context.Context) error {
	if err := h.PowerOff(ctx); err != nil {
		return err
	}
	return h.PowerOn(ctx)
}

func (l *Lab) bootWithDaemons(ctx context.Context, software Software, h HostInfo) error {
	if err := l.boot(ctx, h); err != nil {
		return err
	}
	if software != Weft {
		return nil
	}
	return l.startDaemons(ctx, h)
}

// giveUp switches a host off that did not come up; the caller's context may have ended.
func (h *Host) giveUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTime)
	defer cancel()
	info, err := h.now()
	if err != nil {
		return err
	}
	return h.lab.cutPower(ctx, info)
}
