package openflow

import (
	"bytes"
	"encoding/binary"
)

// PortStatus says that a bridge's port has changed (OpenFlow 1.4 section 7.4.3, OFPT_PORT_STATUS).
type PortStatus struct {
	// Port is the number, Name the name that the port has or, if Deleted, had.
	Port uint32
	Name string
	// Deleted: the port is gone.
	Deleted bool
	// Live is OFPPS_LIVE: the link is up and, on a port with BFD, the session is too (ovs-vswitchd.conf.db(5), bfd).
	Live bool
}

// Numbers of OpenFlow 1.4: message types (section 7.1.1), reasons (7.4.3), port states (7.2.1.3) and properties of the
// asynchronous configuration (7.3.10).
const (
	typePortStatus       = 12
	typeSetAsync         = 28
	reasonDeleted        = 1
	allReasons           = 1<<0 | 1<<1 | 1<<2
	portStateLive        = 1 << 2
	asyncPortStatusOther = 2 // OFPACPT_PORT_STATUS_SLAVE
	asyncPortStatusFull  = 3 // OFPACPT_PORT_STATUS_MASTER, which holds for the role equal too
)

// appendSetAsync asks for all port status messages. A management connection gets none unasked.
func appendSetAsync(b []byte, v Version, xid uint32) []byte {
	start := len(b)
	b = begin(b, v, typeSetAsync, xid)
	for _, property := range []uint16{asyncPortStatusOther, asyncPortStatusFull} {
		b = be32(be16(be16(b, property), 8), allReasons)
	}
	return end(b, start)
}

// decodePortStatus reads the body of an OFPT_PORT_STATUS: reason, 7 bytes of padding, struct ofp_port (OpenFlow 1.4 section
// 7.2.1). Its properties are passed over.
func decodePortStatus(body []byte) (PortStatus, error) {
	const header, fixed, name = 8, 40, 16
	if len(body) < header+fixed {
		return PortStatus{}, errTruncated
	}
	port := body[header:]
	text, _, _ := bytes.Cut(port[name:name+16], []byte{0})
	return PortStatus{
		Port: binary.BigEndian.Uint32(port), Name: string(text),
		Deleted: body[0] == reasonDeleted,
		Live:    body[0] != reasonDeleted && binary.BigEndian.Uint32(port[36:])&portStateLive != 0,
	}, nil
}

// followPorts asks the bridge for the status of its ports, now and whenever one changes.
func (c *Conn) followPorts() error {
	return c.write(appendSetAsync(nil, c.version, c.take(1)))
}

// portStatus hands a status to whoever asked for it.
func (c *Conn) portStatus(m message) error {
	s, err := decodePortStatus(m.body)
	if err == nil && c.ports != nil {
		c.ports(s)
	}
	return err
}
