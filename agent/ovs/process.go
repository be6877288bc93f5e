package ovs

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Process is what the host says of the process ovs-vswitchd.
type Process struct {
	// Known: it has left a pid file; the rest means nothing otherwise.
	Known bool
	// Alive: the process is there, and is no zombie.
	Alive bool
	// CPU is the time that it has had on a processor, in clock ticks. One that does not answer and whose time grows is busy.
	CPU uint64
}

// LookUp looks at the ovs-vswitchd whose run directory (ovs-vswitchd(8), --pidfile) is given.
func LookUp(runDir string) Process {
	text, err := os.ReadFile(filepath.Join(runDir, "ovs-vswitchd.pid"))
	if err != nil {
		return Process{}
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return Process{}
	}
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if errors.Is(err, fs.ErrNotExist) {
		return Process{Known: true}
	}
	if err != nil {
		return Process{}
	}
	return parseStat(stat)
}

// parseStat reads a line of proc_pid_stat(5): state is the third field, utime and stime are the 14th and 15th. The second, the
// command's name, may hold anything.
func parseStat(stat []byte) Process {
	const state, utime, stime = 0, 11, 12 // after the name
	i := bytes.LastIndexByte(stat, ')')
	fields := strings.Fields(string(stat[i+1:]))
	if i < 0 || len(fields) <= stime {
		return Process{}
	}
	user, err1 := strconv.ParseUint(fields[utime], 10, 64)
	system, err2 := strconv.ParseUint(fields[stime], 10, 64)
	if err1 != nil || err2 != nil {
		return Process{}
	}
	return Process{Known: true, Alive: fields[state] != "Z" && fields[state] != "X", CPU: user + system}
}
