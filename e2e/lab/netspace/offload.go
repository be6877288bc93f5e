package netspace

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ethtoolSetTxChecksum is ETHTOOL_STXCSUM of linux/ethtool.h.
const ethtoolSetTxChecksum = 0x17

// ethtoolValue is struct ethtool_value of linux/ethtool.h.
type ethtoolValue struct {
	command uint32
	data    uint32
}

// ethtoolRequest is struct ifreq of linux/if.h in the form that SIOCETHTOOL reads: a name and a pointer. The union
// that follows the name is 24 bytes long on 64-bit machines.
type ethtoolRequest struct {
	name [unix.IFNAMSIZ]byte
	data unsafe.Pointer
	_    [16]byte
}

// DisableTxChecksum does what `ethtool -K <device> tx off` does: the kernel computes checksums itself. Userspace Open
// vSwitch otherwise passes on frames with unfinished checksums, and TCP breaks. Idempotent.
func (t Target) DisableTxChecksum(device string) error {
	return t.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open a socket for ethtool on %s: %w", device, err)
		}
		socket := os.NewFile(uintptr(fd), "ethtool")
		defer socket.Close()
		value := ethtoolValue{command: ethtoolSetTxChecksum}
		request := ethtoolRequest{data: unsafe.Pointer(&value)}
		copy(request.name[:unix.IFNAMSIZ-1], device)
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
			return fmt.Errorf("turn transmit checksum offload of %s in %s off: %w", device, t.Path(), errno)
		}
		return nil
	})
}
