package echo

import (
	"fmt"
	"sync"
	"time"
)

// Stats is the account of a run. An echo counts once however often it is answered.
type Stats struct {
	Sent, Received int
	SendErrors     int           // echoes the kernel refused to send (no route, neighbour unknown); they count as sent and lost
	LongestLoss    int           // echoes in the longest unbroken series of lost ones
	LargestGap     time.Duration // longest time between two consecutive answers
	FirstAnswer    time.Duration // from the start of the run to the first answer; 0 when there was none
	LastAnswer     time.Duration // and to the last
	MinRTT, MaxRTT time.Duration
	MeanRTT        time.Duration // of the answers
	LastError      error         // of SendErrors, the latest
}

// Lost is how many echoes had no answer.
func (s Stats) Lost() int { return s.Sent - s.Received }

// Outage is the longest silence of a run whose echoes were sent at a distance of interval: the largest gap between two
// answers, or, when a run ended in silence, the series of echoes that were never answered.
func (s Stats) Outage(interval time.Duration) time.Duration {
	return max(s.LargestGap, time.Duration(s.LongestLoss)*interval)
}

// String is a line for logs and failures.
func (s Stats) String() string {
	line := fmt.Sprintf("sent %d, lost %d (longest series %d, send errors %d), largest gap %v, first answer after %v, rtt %v-%v",
		s.Sent, s.Lost(), s.LongestLoss, s.SendErrors, s.LargestGap, s.FirstAnswer, s.MinRTT, s.MaxRTT)
	if s.LastError != nil {
		line += fmt.Sprintf(", last error: %v", s.LastError)
	}
	return line
}

// account keeps the account of the echoes to one destination. Safe for concurrent use.
type account struct {
	began time.Time
	first chan struct{} // closed at the first answer

	mu         sync.Mutex
	sentAt     []time.Time
	answered   []bool
	lastAnswer time.Time
	sumRTT     time.Duration
	stats      Stats
}

func newAccount(began time.Time) *account { return &account{began: began, first: make(chan struct{})} }

// sent notes that the next echo is about to go.
func (a *account) sent(now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sentAt = append(a.sentAt, now)
	a.answered = append(a.answered, false)
}

// failed notes that the latest echo was refused.
func (a *account) failed(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stats.SendErrors++
	a.stats.LastError = err
}

// received notes an answer; one to an echo that was answered, or never sent, counts nothing.
func (a *account) received(sequence int, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if sequence < 0 || sequence >= len(a.answered) || a.answered[sequence] {
		return
	}
	a.answered[sequence] = true
	rtt := now.Sub(a.sentAt[sequence])
	if a.stats.Received == 0 {
		a.stats.FirstAnswer, a.stats.MinRTT = now.Sub(a.began), rtt
		close(a.first)
	} else {
		a.stats.LargestGap = max(a.stats.LargestGap, now.Sub(a.lastAnswer))
	}
	a.lastAnswer = now
	a.sumRTT += rtt
	a.stats.Received++
	a.stats.LastAnswer, a.stats.MeanRTT = now.Sub(a.began), a.sumRTT/time.Duration(a.stats.Received)
	a.stats.MinRTT, a.stats.MaxRTT = min(a.stats.MinRTT, rtt), max(a.stats.MaxRTT, rtt)
}

// complete tells whether no answer can come any more.
func (a *account) complete() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.stats.Received+a.stats.SendErrors >= len(a.sentAt)
}

func (a *account) snapshot() Stats {
	a.mu.Lock()
	defer a.mu.Unlock()
	stats := a.stats
	stats.Sent = len(a.sentAt)
	stats.LongestLoss = longestLoss(a.answered)
	return stats
}

func longestLoss(answered []bool) int {
	longest, series := 0, 0
	for _, ok := range answered {
		if ok {
			series = 0
			continue
		}
		series++
		longest = max(longest, series)
	}
	return longest
}
