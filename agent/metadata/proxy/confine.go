package proxy

import (
	"fmt"
	"syscall"
)

// Confine gives up root for good: the process goes on as a user and group without privileges, and with no groups else. A
// process that has changed its user is not dumpable (prctl(2), PR_SET_DUMPABLE): others of the same user, dnsmasq among them,
// can neither trace it nor read its memory.
func Confine(uid, gid int) error {
	if uid <= 0 || gid <= 0 {
		return fmt.Errorf("user %d, group %d: must both be above 0: the metadata proxy does not run as root", uid, gid)
	}
	if err := syscall.Setgroups([]int{}); err != nil {
		return fmt.Errorf("give up groups: %w", err)
	}
	if err := syscall.Setresgid(gid, gid, gid); err != nil {
		return fmt.Errorf("become group %d: %w", gid, err)
	}
	if err := syscall.Setresuid(uid, uid, uid); err != nil {
		return fmt.Errorf("become user %d: %w", uid, err)
	}
	return nil
}
