package echo

import (
	"context"
	"net/netip"
	"testing"
	"time"
)

func loopbacks(n int) []netip.Addr {
	var out []netip.Addr
	for i := range n {
		out = append(out, netip.AddrFrom4([4]byte{127, 0, 0, byte(1 + i)}))
	}
	return out
}

func TestFanKeepsAnAccountOfEachDestination(t *testing.T) {
	f, err := StartFan(context.Background(), here, FanOptions{
		Destinations: loopbacks(5), Interval: 6 * time.Millisecond, Wait: 10 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, to := range loopbacks(5) {
		<-f.accounts[to].first
	}
	stats := f.Stop()
	if len(stats) != 5 {
		t.Fatalf("%d accounts, want 5", len(stats))
	}
	for to, s := range stats {
		if s.Sent == 0 || s.Lost() != 0 {
			t.Errorf("%v: %v; want every echo answered", to, s)
		}
	}
}

func TestFanRefusesWhatItCannotPing(t *testing.T) {
	for name, to := range map[string][]netip.Addr{
		"nobody": nil, "IPv6": {netip.MustParseAddr("::1")}, "one twice": append(loopbacks(1), loopbacks(1)...),
	} {
		if _, err := StartFan(context.Background(), here, FanOptions{Destinations: to}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestOutageCountsTheSilenceAtTheEndToo(t *testing.T) {
	a := newAccount(time.Time{})
	at := func(ms int) time.Time { return time.Time{}.Add(time.Duration(ms) * time.Millisecond) }
	for i := range 20 {
		a.sent(at(10 * i))
	}
	for i := range 5 {
		a.received(i, at(10*i+1))
	}
	if got := a.snapshot().Outage(10 * time.Millisecond); got != 150*time.Millisecond {
		t.Errorf("15 unanswered echoes at the end: outage %v, want 150ms", got)
	}
	a.received(19, at(500))
	if got := a.snapshot().Outage(10 * time.Millisecond); got != 459*time.Millisecond {
		t.Errorf("answers at 41 and 500 ms: outage %v, want 459ms", got)
	}
}
