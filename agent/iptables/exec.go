package iptables

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"

	goiptables "github.com/coreos/go-iptables/iptables"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Backend is what the iptables programs talk to. The two keep separate rules, so they must not be mixed on one host.
type Backend string

// The backends, as `iptables -V` prints them.
const (
	NFTables Backend = "nf_tables"
	Legacy   Backend = "legacy"
)

// program is the name of the program for the driver's family; those that save and restore are called after it.
func (d *Driver) program() string {
	if d.ipv6 {
		return "ip6tables"
	}
	return "iptables"
}

// detect asks iptables for what it can do, and iptables, iptables-save and iptables-restore for their backend, in which
// they have to agree.
func (d *Driver) detect(ctx context.Context) (Backend, error) {
	protocol := goiptables.ProtocolIPv4
	if d.ipv6 {
		protocol = goiptables.ProtocolIPv6
	}
	ipt, err := goiptables.New(goiptables.IPFamily(protocol))
	if err != nil {
		return "", fmt.Errorf("%s: %w: install the package iptables", d.program(), err)
	}
	d.randomFully = ipt.HasRandomFully()
	var found Backend
	for _, program := range []string{d.program(), d.program() + "-save", d.program() + "-restore"} {
		out, err := d.command(ctx, "", program, "-V")
		if err != nil {
			return "", err
		}
		b := Legacy
		if strings.Contains(out, string(NFTables)) {
			b = NFTables
		}
		if found != "" && b != found {
			return "", fmt.Errorf("%s uses %s, but %s uses %s: choose one with update-alternatives", program, b, d.program(), found)
		}
		found = b
	}
	return found, nil
}

// Of legacy iptables (iptables/xshared.c): how long it waits for its lock, in seconds, and what it says if that was too
// short. Its exit status then is that of other troubles too.
const (
	lockWait      = "1"
	lockedMessage = "holding the xtables lock"
)

// command runs a program in the calling thread's namespace and returns what it prints.
func (d *Driver) command(ctx context.Context, input, program string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &errs
	cmd.WaitDelay = time.Second // a child of a killed script must not hold us by its output
	if err := cmd.Run(); err != nil {
		if strings.Contains(errs.String(), lockedMessage) {
			err = fmt.Errorf("%w: %w", ErrLocked, err)
		}
		return "", fmt.Errorf("%s: %w: %s", program, errors.Join(err, ctx.Err()), strings.TrimSpace(errs.String()))
	}
	return out.String(), nil
}

// observe reads weft's part of the calling thread's namespace.
func (d *Driver) observe(ctx context.Context) (state, error) {
	if empty, err := d.noTables(); err != nil || empty {
		return make(state), err
	}
	save, err := d.command(ctx, "", d.program()+"-save")
	if err != nil {
		return nil, err
	}
	return parse(save, d.prefix), nil
}

// noTables reports whether the calling thread's namespace has no table of the family, of either backend, as a new one: asking
// the kernel takes microseconds, starting iptables-save milliseconds.
func (d *Driver) noTables() (bool, error) {
	names, family := "/proc/thread-self/net/ip_tables_names", uint8(unix.NFPROTO_IPV4)
	if d.ipv6 {
		names, family = "/proc/thread-self/net/ip6_tables_names", unix.NFPROTO_IPV6
	}
	legacy, err := os.ReadFile(names)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("list legacy tables: %w", err)
	}
	if len(legacy) > 0 {
		return false, nil
	}
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETTABLE, unix.NLM_F_DUMP)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: family, Version: unix.NFNETLINK_V0})
	tables, err := req.Execute(unix.NETLINK_NETFILTER, 0)
	if err != nil {
		return false, nil // no nf_tables in this kernel: let iptables-save say what there is
	}
	return len(tables) == 0, nil
}

// failedLine finds the line that iptables-restore could not apply: "line N failed" or "Error occurred at line: N".
var failedLine = regexp.MustCompile(`line:? (\d+)`)

// restore applies text to the calling thread's namespace.
func (d *Driver) restore(ctx context.Context, text string) error {
	d.writes.Add(1)
	_, err := d.command(ctx, text, d.program()+"-restore", "--noflush", "--wait", lockWait)
	if err == nil {
		return nil
	}
	if m := failedLine.FindStringSubmatch(err.Error()); m != nil {
		n, _ := strconv.Atoi(m[1])
		if lines := strings.Split(text, "\n"); n >= 1 && n <= len(lines) {
			return fmt.Errorf("line %d is %q: %w", n, lines[n-1], err)
		}
	}
	return err
}
