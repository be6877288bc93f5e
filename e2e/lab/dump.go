package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
)

// dumpScript shows a host as its operator would look at it. Sections that do not apply say so and do no harm.
const dumpScript = `
section() { echo; echo "--- $*"; "$@" 2>&1; }
section ip -br address
section ip route
section iptables-save
if [ -S /run/openvswitch/db.sock ]; then
	section ovs-vsctl --timeout=5 show
	for b in $(ovs-vsctl --timeout=5 list-br); do
		section ovs-ofctl --timeout=5 -O OpenFlow15 show "$b"
		section ovs-ofctl --timeout=5 -O OpenFlow15 --no-stats dump-flows "$b"
	done
	section ovs-appctl --timeout=5 tnl/arp/show
	section ovs-appctl --timeout=5 coverage/show
	section ovs-appctl --timeout=5 dpif-netdev/pmd-stats-show
fi
for n in $(ls /run/netns); do
	echo; echo "=== namespace $n"
	section ip netns exec "$n" ip -br address
	section ip netns exec "$n" ip route
	section ip netns exec "$n" ip neigh
	section ip netns exec "$n" iptables-save
done
for f in $(find /var/lib/weft /run/weft -path '*dhcp*' -type f -size -64k 2>/dev/null); do section cat "$f"; done
section ps -eo pid,ppid,stat,etime,args
for f in /var/log/weft/*.log /var/log/openvswitch/*.log; do [ -f "$f" ] && section tail -n 40 "$f"; done
true
`

// Dump writes the state of the switch and of every host that is on, for the reader of a failed test: bridges and flows,
// namespaces with addresses, routes and NAT, DHCP files, processes, ends of logs. It goes on past what fails.
func (l *Lab) Dump(ctx context.Context, w io.Writer) error {
	s, err := l.load()
	if err != nil {
		return err
	}
	texts := make([]strings.Builder, len(s.Hosts))
	var mu sync.Mutex
	var errs []error
	var group errgroup.Group
	for i, h := range s.Hosts {
		group.Go(func() error {
			if err := l.dumpHost(ctx, &texts[i], h); err != nil {
				mu.Lock()
				errs = append(errs, err)
				mu.Unlock()
			}
			return nil
		})
	}
	_ = group.Wait() // the functions return no error, they collect them
	for i := range texts {
		if _, err := io.WriteString(w, texts[i].String()); err != nil {
			return fmt.Errorf("dump lab %s: %w", l.name, err)
		}
	}
	return errors.Join(errs...)
}

func (l *Lab) dumpHost(ctx context.Context, w *strings.Builder, h HostInfo) error {
	fmt.Fprintf(w, "\n##### %s (%s) management %v tunnel %v\n", h.Name, h.Kind, h.Management, h.Tunnel)
	if !h.On() {
		fmt.Fprintln(w, "powered off")
		return nil
	}
	text, err := l.space(h.Name, "").Exec(ctx, "sh", "-c", dumpScript)
	w.WriteString(text)
	return err
}
