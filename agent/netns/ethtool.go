package netns

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ethtool commands of linux/ethtool.h: transmit checksumming, read and set. Turning it off turns segmentation offload
// off with it.
const (
	ethtoolGetTxCsum = 0x16
	ethtoolSetTxCsum = 0x17
)

// ethtoolValue is struct ethtool_value of linux/ethtool.h.
type ethtoolValue struct {
	cmd  uint32
	data uint32
}

// ifreqData is struct ifreq of linux/if.h with its ifr_data member, padded to the kernel's size.
type ifreqData struct {
	name [unix.IFNAMSIZ]byte
	data *ethtoolValue
	_    [16]byte
}

func ethtool(fd int, link string, v *ethtoolValue) error {
	req := ifreqData{data: v}
	copy(req.name[:unix.IFNAMSIZ-1], link)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req)))
	if errno != 0 {
		return fmt.Errorf("link %s: ethtool command %#x: %w", link, v.cmd, errno)
	}
	return nil
}

// txChecksum reads whether a link in the calling thread's namespace offloads transmit checksums.
func txChecksum(fd int, link string) (bool, error) {
	v := ethtoolValue{cmd: ethtoolGetTxCsum}
	err := ethtool(fd, link, &v)
	return v.data != 0, err
}

// txChecksumOff turns it off. Userspace OVS passes frames on as they are, so a checksum left to hardware that is not
// there stays wrong and TCP breaks.
func txChecksumOff(fd int, link string) error {
	return ethtool(fd, link, &ethtoolValue{cmd: ethtoolSetTxCsum})
}
