package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/weft-sdn/weft/e2e/lab"
)

// memory adds the resident memory of a daemon, and its proportional share of it, in megabytes (10^6).
func (b *bench) memory(host string, d lab.Daemon, got samples, rss, pss string) error {
	h, err := b.lab.Host(host)
	if err != nil {
		return err
	}
	running, err := h.Processes(d)
	if err != nil {
		return err
	}
	if len(running) != 1 {
		return fmt.Errorf("%d processes of %s on %s, want 1", len(running), d, host)
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", running[0].PID))
	if err != nil {
		return err
	}
	for field, id := range map[string]string{"Rss:": rss, "Pss:": pss} {
		kib, err := kibibytes(string(text), field)
		if err != nil {
			return err
		}
		got.add(id, float64(kib)*1024/1e6)
	}
	return nil
}

// kibibytes finds a field of proc(5)'s smaps.
func kibibytes(smaps, field string) (int, error) {
	for line := range strings.Lines(smaps) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == field && f[2] == "kB" {
			return strconv.Atoi(f[1])
		}
	}
	return 0, fmt.Errorf("smaps has no field %s", field)
}
