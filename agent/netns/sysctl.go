package netns

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/weft-sdn/weft/agent/desired"
)

const ipForward = "net.ipv4.ip_forward"

// promoteSecondaries keeps the other addresses of a subnet when the first of them is removed (ip-sysctl).
const promoteSecondaries = "net.ipv4.conf.all.promote_secondaries"

// /proc/sys/net shows the network namespace of the thread that reads it (proc_sys(5), kernel net_ctl_root), so none of
// this needs a mount of its own.
const procSys = "/proc/sys"

var (
	sysctlName  = regexp.MustCompile(`^net(\.[a-z0-9_-]+)+$`)
	sysctlValue = regexp.MustCompile(`^[0-9 \t-]{1,64}$`)
	// forwardName matches the switches that let packets through; they belong to Forward.
	forwardName = regexp.MustCompile(`^net\.(ipv4\.ip_forward|ipv[46]\.conf\.[a-z0-9_-]+\.(mc_)?forwarding)$`)
)

func sysctlPath(name string) string {
	return filepath.Join(procSys, strings.ReplaceAll(name, ".", "/"))
}

func readSysctl(name string) (string, error) {
	b, err := os.ReadFile(sysctlPath(name))
	if err != nil {
		return "", fmt.Errorf("sysctl %s: %w", name, err)
	}
	return strings.Join(strings.Fields(string(b)), " "), nil
}

func writeSysctl(name, value string) error {
	if err := os.WriteFile(sysctlPath(name), []byte(value), 0o644); err != nil {
		return fmt.Errorf("sysctl %s=%s: %w", name, value, err)
	}
	return nil
}

// setSysctl writes a value that differs from the present one, in the calling thread's namespace; of which object of the
// pass, "" for its namespace, is for the difference. The error is that of reading; one of writing is noted.
func (p *pass) setSysctl(object, name, value string) error {
	have, err := readSysctl(name)
	if err != nil || have == strings.Join(strings.Fields(value), " ") {
		return err
	}
	d := desired.Difference{Kind: "namespace", Object: object, Desired: name + "=" + value, Actual: name + "=" + have}
	p.write(d, func() error { return writeSysctl(name, value) })
	return nil
}

func checkSysctl(name, value string) error {
	switch {
	case forwardName.MatchString(name):
		return fmt.Errorf("sysctl %s: forwarding is switched by desired.Namespace.Forward, after NAT is in", name)
	case !sysctlName.MatchString(name):
		return fmt.Errorf("sysctl %q: name must be net. and lower-case words joined by dots", name)
	case !sysctlValue.MatchString(value):
		return fmt.Errorf("sysctl %s: value %q must be numbers", name, value)
	}
	return nil
}

// setSysctls writes what differs, in the order of the names; object is as for setSysctl.
func (p *pass) setSysctls(object string, want map[string]string) error {
	failed := len(p.errs)
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if err := checkSysctl(name, want[name]); err != nil {
			return err
		}
		if err := p.setSysctl(object, name, want[name]); err != nil {
			return err
		}
	}
	if len(p.errs) > failed {
		return errSysctl
	}
	return nil
}

// errSysctl follows the errors of single sysctls.
var errSysctl = errors.New("the namespace's settings are not in, nothing more is done")

// Forward sets the namespace's forwarding switch to want.Forward: the last step of a build, after NAT, links and
// routes. It reports nothing written when the switch already stands so.
func (m *Manager) Forward(ctx context.Context, want desired.Namespace) (Report, error) {
	var r Report
	if err := ctx.Err(); err != nil {
		return r, fmt.Errorf("namespace %s: forward: %w", want.Name, err)
	}
	p := &pass{m: m, ctx: ctx, want: want, report: &r}
	err := m.Run(want.Name, p.forward)
	if err := errors.Join(append(p.errs, err)...); err != nil {
		return r, fmt.Errorf("namespace %s: forward: %w", want.Name, err)
	}
	return r, nil
}

func (p *pass) forward() error {
	value := "0"
	if p.want.Forward {
		value = "1"
	}
	return p.setSysctl("", ipForward, value)
}
