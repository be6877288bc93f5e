package echo

import (
	"context"
	"net/netip"
	"testing"
	"time"
)

func here(fn func() error) error { return fn() }

func TestEveryEchoToLoopbackIsAnswered(t *testing.T) {
	for _, identity := range []Identity{OneFlow, NewFlows} {
		run, err := Start(context.Background(), here, Options{
			Destination: netip.MustParseAddr("127.0.0.1"), Count: 20, Interval: time.Millisecond, Wait: 10 * time.Second, Identity: identity,
		})
		if err != nil {
			t.Fatal(err)
		}
		if stats := run.Wait(); stats.Sent != 20 || stats.Lost() != 0 || stats.LongestLoss != 0 {
			t.Errorf("identity %d: %v", identity, stats)
		}
	}
}

func TestTwoRunsInOneNamespaceDoNotTakeEachOthersAnswers(t *testing.T) {
	options := Options{Destination: netip.MustParseAddr("127.0.0.1"), Interval: time.Millisecond, Wait: 10 * time.Second}
	var runs []*Run
	for range 2 {
		run, err := Start(context.Background(), here, options)
		if err != nil {
			t.Fatal(err)
		}
		runs = append(runs, run)
	}
	for _, run := range runs {
		<-run.FirstAnswer()
		if stats := run.Stop(); stats.Lost() != 0 || stats.Received != stats.Sent {
			t.Error(stats)
		}
	}
}

func TestLongestLossCountsTheLongestSeries(t *testing.T) {
	for _, c := range []struct {
		answered []bool
		want     int
	}{
		{nil, 0},
		{[]bool{true, true}, 0},
		{[]bool{false, true, false, false, true}, 2},
		{[]bool{true, false, false, false}, 3},
	} {
		if got := longestLoss(c.answered); got != c.want {
			t.Errorf("longestLoss(%v) = %d, want %d", c.answered, got, c.want)
		}
	}
}

func TestOtherThanIPv4IsRefused(t *testing.T) {
	if _, err := Start(context.Background(), here, Options{Destination: netip.MustParseAddr("::1")}); err == nil {
		t.Fatal("an echo to ::1 was accepted")
	}
}
