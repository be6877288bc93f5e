package main

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"strings"
	"time"
)

// A controller's memory is small at rest and grows for moments, when everything is listed: 10,000 ports live in 12 MB and
// take 30 MB while they are read. So it gives back what it does not need within seconds and, without an embedded etcd,
// whose work it would slow down, collects earlier than Go would.
const (
	gcPercent = 50
	trimEvery = 5 * time.Second
	trimAbove = 8 << 20 // bytes idle
)

// collectEarly sets the collector, unless GOGC does.
func collectEarly(environ []string) {
	if !slices.ContainsFunc(environ, func(v string) bool { return strings.HasPrefix(v, "GOGC=") }) {
		debug.SetGCPercent(gcPercent)
	}
}

// trim gives idle memory back until the context ends.
func trim(ctx context.Context) {
	ticker := time.NewTicker(trimEvery)
	defer ticker.Stop()
	idle := []metrics.Sample{{Name: "/memory/classes/heap/free:bytes"}, {Name: "/memory/classes/heap/unused:bytes"}}
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		metrics.Read(idle)
		if idle[0].Value.Uint64()+idle[1].Value.Uint64() > trimAbove {
			debug.FreeOSMemory()
		}
	}
}
