package tour

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/weft-sdn/weft/e2e/lab"
)

// agentRestart kills every agent with SIGKILL and starts it again, under traffic.
func (t *Tour) agentRestart(ctx context.Context) error {
	before := map[string]string{}
	for _, node := range nodes() {
		var err error
		if before[node], err = t.fingerprint(ctx, node); err != nil {
			return err
		}
	}
	began := time.Now()
	started, err := t.startTimes(ctx)
	if err != nil {
		return err
	}
	runs, err := t.pings(ctx)
	if err != nil {
		return err
	}
	for _, node := range nodes() {
		h, err := t.lab.Host(node)
		if err != nil {
			return err
		}
		if err := h.Kill(ctx, lab.AgentDaemon); err != nil {
			return err
		}
		if err := h.Start(ctx, lab.AgentDaemon); err != nil {
			return err
		}
	}
	err = until(ctx, "the new agents are at work", func() (bool, error) {
		now, err := t.startTimes(ctx)
		for node, time := range started {
			if now[node] == time {
				return false, err
			}
		}
		return true, err
	})
	if err != nil {
		return err
	}
	t.proved("the agents of %s were killed (SIGKILL) and new ones are at work", strings.Join(nodes(), ", "))
	if err := t.lostNoMore(nothing, runs); err != nil {
		return err
	}
	for _, node := range nodes() {
		after, err := t.fingerprint(ctx, node)
		if err != nil {
			return err
		}
		if after != before[node] {
			return fmt.Errorf("%s changed by the restart:\n%s", node, difference(before[node], after))
		}
		if err := t.untouched(ctx, node, time.Since(began)); err != nil {
			return err
		}
	}
	t.proved("flows, ports, rules, namespaces and processes on %s are the very same", strings.Join(nodes(), ", "))
	return t.workAgain(ctx)
}

// startTimes are when each node's agent says it started: it says so once it has planned and written what its node needs.
func (t *Tour) startTimes(ctx context.Context) (map[string]string, error) {
	have, err := get[[]object](ctx, t, "node list")
	out := map[string]string{}
	for _, n := range have {
		out[n.text("id")] = n.text("start_time")
	}
	return out, err
}

// workAgain proves that the restarted agents work, by a VM on each compute node.
func (t *Tour) workAgain(ctx context.Context) error {
	for i, host := range []string{"cmp1", "cmp2"} {
		name := fmt.Sprintf("after-%d", i+1)
		if _, err := t.vm(ctx, name, host, "net1"); err != nil {
			return err
		}
		if err := t.vms[name].Remove(ctx); err != nil {
			return err
		}
		delete(t.vms, name)
		if err := t.do(ctx, "port delete "+name); err != nil {
			return err
		}
	}
	return nil
}

// untouched wants every flow of the VMs and services to be as old as it was: none has been written again.
func (t *Tour) untouched(ctx context.Context, node string, since time.Duration) error {
	for _, bridge := range []string{"br-int", "br-tun"} {
		out, err := t.exec(ctx, node, "ovs-ofctl", "-O", "OpenFlow15", "dump-flows", bridge, "table=0")
		if err != nil {
			return err
		}
		for line := range strings.Lines(out) {
			m := flowAge.FindStringSubmatch(line)
			if m == nil {
				continue
			}
			age, err := time.ParseDuration(m[1])
			if err != nil {
				return err
			}
			if age < since {
				return fmt.Errorf("%s: a flow of %s is %s old, younger than the restart: %s", node, bridge, age, line)
			}
		}
	}
	return nil
}

var flowAge = regexp.MustCompile(`duration=([0-9.]+s)`)

func (t *Tour) wholeDeletion(ctx context.Context) error {
	for _, vm := range t.vms {
		if err := vm.Remove(ctx); err != nil {
			return err
		}
		if err := t.do(ctx, "port delete "+vm.Spec.Port.ID); err != nil {
			return err
		}
	}
	if err := t.all(ctx,
		"floatingip delete 203.0.113.200",
		"router interface remove router1 sub-net1", "router interface remove router1 sub-net4", "router delete router1"); err != nil {
		return err
	}
	for _, n := range []string{"net1", "net2", "net3", "net4", "red", "blue", "commons", "ext1", "ext2"} {
		project := ""
		if n == "red" || n == "blue" {
			project = " --project " + n
		}
		if err := t.all(ctx, "subnet delete sub-"+n+project, "network delete "+n+project); err != nil {
			return err
		}
	}
	for _, node := range nodes() {
		err := until(ctx, node+" is as it was", func() (bool, error) {
			now, err := t.fingerprint(ctx, node)
			if err == nil && now != t.before[node] {
				err = errors.New(difference(t.before[node], now))
			}
			return err == nil, err
		})
		if err != nil {
			return err
		}
		t.proved("host %s is as it was before the first network", node)
		if err := t.cleanup(ctx, node); err != nil {
			return err
		}
	}
	return nil
}

// cleanup stops a node's agent and has it take weft off the node; nothing of it is left then.
func (t *Tour) cleanup(ctx context.Context, node string) error {
	h, err := t.lab.Host(node)
	if err != nil {
		return err
	}
	if err := h.Stop(ctx, lab.AgentDaemon); err != nil {
		return err
	}
	bin, err := t.lab.Bin()
	if err != nil {
		return err
	}
	if _, err := h.Exec(ctx, filepath.Join(bin, "weft-agent"), "cleanup", "--config", filepath.Join(t.lab.Dir(), node, "weft-agent.yaml")); err != nil {
		return err
	}
	now, err := t.fingerprint(ctx, node)
	if err != nil {
		return err
	}
	if left := traces.FindString(now); left != "" {
		return fmt.Errorf("%s still has %q after weft-agent cleanup:\n%s", node, left, now)
	}
	t.proved("weft-agent cleanup leaves nothing of weft on host %s", node)
	return nil
}

// traces are what weft leaves on a host: its marks, its bridges, its cookies, its namespaces.
var traces = regexp.MustCompile(`weft-owner|weft-tag|Bridge br-int|Bridge br-tun|cookie=0x7765|qrouter-|qdhcp-|/var/lib/weft/dhcp/.`)

// looks are the commands whose output, without what changes by itself, is what a node looks like.
func looks() [][]string {
	return [][]string{
		{"ovs-vsctl", "show"},
		{"ovs-vsctl", "--columns=name,external_ids,tag", "list", "Port"},
		{"ovs-vsctl", "--columns=name,external_ids", "list", "Bridge"},
		{"sh", "-c", "for b in $(ovs-vsctl list-br | sort); do echo $b; ovs-ofctl -O OpenFlow15 dump-flows --no-stats $b; done"},
		{"ip", "-o", "link", "show"},
		{"sh", "-c", "for n in $(ip netns list | cut -d' ' -f1 | sort); do echo $n; ip -n $n -o addr; ip -n $n route; ip netns exec $n iptables-save; done"},
		{"sh", "-c", "pgrep -a dnsmasq || true"},
		{"sh", "-c", "find /var/lib/weft /run/weft -type f 2>/dev/null | sort"},
		{"iptables-save"},
	}
}

// volatile is what changes without anybody's doing: counters, comments with times, the order of lines, numbers of devices,
// what neighbours hear of each other.
var volatile = regexp.MustCompile(`(?m)^#.*$|\[\d+:\d+\]|^\d+: |@if\d+|(?m)^_uuid.*$|(?m)^ *bfd_status: .*$`)

// fingerprint is what a node looks like, as text that is the same whenever the node is.
func (t *Tour) fingerprint(ctx context.Context, node string) (string, error) {
	var b strings.Builder
	for _, argv := range looks() {
		out, err := t.exec(ctx, node, argv...)
		if err != nil {
			return "", err
		}
		lines := slices.Sorted(strings.Lines(volatile.ReplaceAllString(out, "")))
		fmt.Fprintf(&b, "## %s\n%s", strings.Join(argv, " "), strings.Join(lines, ""))
	}
	return b.String(), nil
}

// settledFingerprint waits until the node's agent has made its standing flows and nothing changes any more.
func (t *Tour) settledFingerprint(ctx context.Context, node string) (string, error) {
	var last string
	err := until(ctx, node+" has settled", func() (bool, error) {
		now, err := t.fingerprint(ctx, node)
		same := now == last && strings.Contains(now, "phy-br-tenant")
		last = now
		return same, err
	})
	return last, err
}

// difference lists the lines that only one of two texts has.
func difference(before, after string) string {
	var out []string
	was, is := strings.Split(before, "\n"), strings.Split(after, "\n")
	for _, l := range was {
		if !slices.Contains(is, l) {
			out = append(out, "- "+l)
		}
	}
	for _, l := range is {
		if !slices.Contains(was, l) {
			out = append(out, "+ "+l)
		}
	}
	return strings.Join(out[:min(len(out), 40)], "\n")
}
