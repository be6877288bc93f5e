package controller_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// served fails the test unless somebody else's calls are answered.
func (w *world) served(meanwhile string) {
	w.Helper()
	other := dial(w, w.listener)
	defer other.conn.Close()
	ctx, cancel := context.WithTimeout(w.ctx, 5*time.Second)
	defer cancel()
	if _, err := other.CreateNetwork(ctx, &weftv1.CreateNetworkRequest{Network: &weftv1.Network{Name: "other"}}); err != nil {
		w.Errorf("while %s nobody else is served: %v", meanwhile, err)
	}
}

func TestTenThousandStreamsOfOneCallerHoldUpNobody(t *testing.T) {
	w := newWorld(t)
	greedy := dial(w, w.listener)
	defer greedy.conn.Close()
	ctx, cancel := context.WithCancel(w.ctx)
	var streams sync.WaitGroup
	defer streams.Wait()
	defer cancel()
	open := make(chan struct{}, 10_000)
	for range cap(open) {
		streams.Go(func() {
			stream, err := greedy.Watch(ctx, &weftv1.WatchRequest{})
			if err != nil {
				return
			}
			if _, err := stream.Recv(); err == nil { // it tells from where on
				open <- struct{}{}
			}
			for err == nil {
				_, err = stream.Recv()
			}
		})
	}
	for range 200 {
		select {
		case <-open:
		case <-w.ctx.Done():
			t.Fatal("the streams do not open")
		}
	}
	w.served("10,000 streams are open or wait to be")
}

// TestManyOpenStreamsHoldUpNobody has as many connections as it takes to have all open. WEFT_STREAMS says how many.
func TestManyOpenStreamsHoldUpNobody(t *testing.T) {
	const connections = 50
	each := fromEnvironment(t, "WEFT_STREAMS", 2000) / connections
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	var streams sync.WaitGroup
	defer streams.Wait()
	defer cancel()
	var opening errgroup.Group
	for range connections {
		c := dial(w, w.listener)
		defer c.conn.Close()
		opening.Go(func() error {
			for range each {
				stream, err := c.Watch(ctx, &weftv1.WatchRequest{})
				if err == nil {
					_, err = stream.Recv() // it tells from where on
				}
				if err != nil {
					return err
				}
				streams.Go(func() {
					for err == nil {
						_, err = stream.Recv()
					}
				})
			}
			return nil
		})
	}
	w.check(opening.Wait())
	w.ctx = t.Context() // the world's own may have ended
	w.served(fmt.Sprintf("%d streams are open", connections*each))
}

// fromEnvironment is a number that a variable of the environment may change.
func fromEnvironment(t *testing.T, name string, usual int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return usual
	}
	n, err := strconv.Atoi(text)
	check(t, err)
	return n
}

func TestConnectionsThatDoNotGoOnHoldUpNobody(t *testing.T) {
	w := newWorld(t)
	const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" // RFC 9113 section 3.4
	for i := range 500 {
		conn, err := w.listener.DialContext(w.ctx)
		w.check(err)
		defer conn.Close()
		go func() { _, _ = conn.Write([]byte(preface[:i%len(preface)])) }() // the server may take its time to read it
	}
	w.served("500 connections are begun and not gone on with")
}

func TestARequestThatIsTooLargeIsRefusedAlone(t *testing.T) {
	w := newWorld(t)
	_, err := w.CreateNetwork(w.ctx, &weftv1.CreateNetworkRequest{Network: &weftv1.Network{Name: strings.Repeat("x", 9<<20)}})
	refused(t, err, codes.ResourceExhausted)
	w.served("too large a request is refused")
}

// nonsense makes one call about what its caller has made up.
func nonsense(ctx context.Context, c client, chance *rand.Rand) (err error) {
	word := func() string { return fmt.Sprintf("%016x%016x", chance.Uint64(), chance.Uint64()) }
	id := func() string {
		s := word()
		return s[:8] + "-" + s[8:12] + "-4" + s[13:16] + "-8" + s[17:20] + "-" + s[20:32]
	}
	switch chance.IntN(8) {
	case 0:
		_, err = c.GetPort(ctx, &weftv1.GetPortRequest{Id: id()})
	case 1:
		_, err = c.ListPorts(ctx, &weftv1.ListPortsRequest{Filter: word() + " = " + word(), PageToken: word()})
	case 2:
		_, err = c.ListNetworks(ctx, &weftv1.ListNetworksRequest{Filter: "name = " + word(), OrderBy: word(), Project: word()})
	case 3:
		_, err = c.UpdateNetwork(ctx, &weftv1.UpdateNetworkRequest{Network: &weftv1.Network{Id: id()}, UpdateMask: mask(word()), RequestId: id()})
	case 4:
		_, err = c.ListSecurityGroupRules(ctx, &weftv1.ListSecurityGroupRulesRequest{Filter: "security_group_id = " + id()})
	case 5:
		_, err = c.CreatePort(ctx, &weftv1.CreatePortRequest{Port: &weftv1.Port{NetworkId: id(), Project: word(), Name: word()}, RequestId: id()})
	case 6:
		_, err = c.DeleteRouter(metadata.AppendToOutgoingContext(ctx, word(), word()), &weftv1.DeleteRouterRequest{Id: id()})
	case 7:
		err = c.conn.Invoke(ctx, "/weft.v1."+word()+"/"+word(), &weftv1.Network{}, &weftv1.Network{})
	}
	return err
}

// TestRandomIDsFieldsAndFiltersLeaveNothingInMemory (CVE-2021-40797): what callers make up is not remembered. WEFT_CALLS says how
// many calls; so many, or a hundred times as many, may leave no more than 4 MiB.
func TestRandomIDsFieldsAndFiltersLeaveNothingInMemory(t *testing.T) {
	calls := fromEnvironment(t, "WEFT_CALLS", 10_000)
	w := newWorld(t)
	answers := []codes.Code{codes.OK, codes.NotFound, codes.InvalidArgument, codes.Unimplemented}
	ask := func(n int) {
		var callers sync.WaitGroup
		const many = 8
		for c := range many {
			callers.Go(func() {
				chance := rand.New(rand.NewPCG(uint64(n), uint64(c))) //nolint:gosec // a test's
				for range n / many {
					err := nonsense(t.Context(), w.client, chance)
					if c := status.Code(err); !slices.Contains(answers, c) {
						t.Errorf("answered %v", err)
						return
					}
				}
			})
		}
		callers.Wait()
	}
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	ask(4000) // pools and buffers have their size
	before, began := heap(), time.Now()
	ask(calls)
	after := heap()
	t.Logf("%d calls in %s; the heap was %d kB and is %d kB", calls, time.Since(began).Round(time.Second), before>>10, after>>10)
	if after > before+4<<20 {
		t.Errorf("%d calls left %d kB", calls, (after-before)>>10)
	}
}

func TestOddBlocksOfAddressesAreRefused(t *testing.T) {
	w := newWorld(t)
	for _, cidr := range []string{
		"0.0.0.0/0", "10.0.0.0/7", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/08", "10.0.0.1/8", "010.0.0.0/8", "0x0a.0.0.0/8", "10/8", "10.0.0.0",
		"10.0.0.0/8 ", " 10.0.0.0/8", "10.0.0.0/8\n", "10.0.0.0/8\x00", "::ffff:10.0.0.0/104", "::/0", "fe80::1%eth0/64", "127.0.0.0/8", "224.0.0.0/8", "",
	} {
		refused(t, createSubnet(&weftv1.Subnet{Cidr: cidr})(w), codes.InvalidArgument, "cidr")
		group := w.group(&weftv1.SecurityGroup{Name: "g"})
		if cidr == "" || cidr == "0.0.0.0/0" || cidr == "::/0" || cidr == "127.0.0.0/8" || cidr == "224.0.0.0/8" || cidr == "10.0.0.0/7" || cidr == "10.0.0.0" {
			continue // no remote, or one that makes sense
		}
		r := ingressRule(group.GetId())
		r.Remote = &weftv1.SecurityGroupRule_RemoteCidr{RemoteCidr: cidr}
		_, err := w.addRule(r)
		refused(t, err, codes.InvalidArgument, "remote_cidr")
	}
	w.audit()
}

// CVE-2021-40085: what reaches dnsmasq's files or a command line can't end a line or an option there.
func TestNothingThatEndsALineOrAnOptionIsTaken(t *testing.T) {
	w := newWorld(t)
	for _, bad := range []string{"a\nb", "a\x00b", "a\rb", "a#b", "a,b", "a\"b", "a'b\nc", "a\\b", "a\x7fb", "\xff"} {
		for field, err := range map[string]error{
			"extra_dhcp_opts":   createPort(&weftv1.Port{ExtraDhcpOpts: []*weftv1.DhcpOption{{Name: "ntp-server", Value: bad}}})(w),
			"dns_domain":        createNetwork(&weftv1.Network{DnsDomain: bad})(w),
			"instance.hostname": createPort(&weftv1.Port{Instance: &weftv1.Instance{Hostname: bad}})(w),
			"dns_nameservers":   createSubnet(&weftv1.Subnet{Cidr: "10.44.0.0/24", DnsNameservers: []string{bad}})(w),
			"mac_address":       createPort(&weftv1.Port{MacAddress: bad})(w),
			"project":           createNetwork(&weftv1.Network{Project: bad})(w),
		} {
			if !strings.Contains(bad, "\xff") { // which does not even reach the server: protobuf's strings are UTF-8
				refused(t, err, codes.InvalidArgument, field)
			} else if err == nil {
				t.Errorf("%s takes %q", field, bad)
			}
		}
	}
	_, err := w.CreateSecurityGroup(w.ctx, &weftv1.CreateSecurityGroupRequest{SecurityGroup: &weftv1.SecurityGroup{Name: "a\nb", Stateful: proto.Bool(true)}})
	refused(t, err, codes.InvalidArgument, "name")
	w.audit()
}

// TestAHugeRangeIsNotWalkedThrough would not come to its end in time if one were.
func TestAHugeRangeIsNotWalkedThrough(t *testing.T) {
	w := newWorld(t)
	n := w.network(&weftv1.Network{Name: "huge"})
	s := w.subnet(&weftv1.Subnet{NetworkId: n.GetId(), Cidr: "10.0.0.0/8"})
	w.segmentRange(&weftv1.SegmentRange{Type: gre, Minimum: 1 << 24, Maximum: 1<<32 - 1}) // besides the range that there is
	for range 20 {
		w.port(&weftv1.Port{NetworkId: n.GetId(), FixedIps: []*weftv1.FixedIp{{SubnetId: s.GetId()}}})
		w.network(&weftv1.Network{Type: gre})
	}
	pool := []*weftv1.AllocationPool{{Start: "fd00::1", End: "fd00::ffff:ffff:ffff:fffe"}}
	refused(t, createSubnet(&weftv1.Subnet{Cidr: "fd00::/64", AllocationPools: pool})(w), codes.InvalidArgument, "cidr")
	_, err := w.UpdateSubnet(w.ctx, &weftv1.UpdateSubnetRequest{Subnet: &weftv1.Subnet{Id: s.GetId(), AllocationPools: pool}, UpdateMask: mask("allocation_pools")})
	refused(t, err, codes.InvalidArgument, "allocation_pools[0]")
}
