package openflow

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
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
	multipartPortDesc    = 13
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
	const header = 8
	if len(body) < header+portFixed {
		return PortStatus{}, errTruncated
	}
	s := decodePort(body[header:])
	if s.Deleted = body[0] == reasonDeleted; s.Deleted {
		s.Live = false
	}
	return s, nil
}

// portFixed is how long a struct ofp_port is without its properties.
const portFixed = 40

// decodePort reads the fixed part of a struct ofp_port, which b must hold.
func decodePort(b []byte) PortStatus {
	const name, state = 16, 36
	text, _, _ := bytes.Cut(b[name:name+16], []byte{0})
	return PortStatus{
		Port: binary.BigEndian.Uint32(b), Name: string(text), Live: binary.BigEndian.Uint32(b[state:])&portStateLive != 0,
	}
}

// Ports lists the status of every port of the bridge. What Options.Ports is told while it runs is newer.
func (c *Conn) Ports(ctx context.Context) ([]PortStatus, error) {
	var out []PortStatus
	err := c.exclusive(ctx, func() error {
		xid := c.take(1)
		op := &operation{first: xid, count: 1, handle: func(m message) (bool, error) {
			if err := expect(m, typeMultipartReply); err != nil {
				return true, err
			}
			part, more, err := decodePortDesc(m.body)
			out = append(out, part...)
			return !more, err
		}}
		return c.exchange(ctx, appendPortDescRequest(nil, c.version, xid), op)
	})
	if err != nil {
		return nil, fmt.Errorf("listing ports: %w", err)
	}
	return out, nil
}

// appendPortDescRequest writes an OFPMP_PORT_DESC request (OpenFlow 1.4 section 7.3.5.7); in 1.5 it names the ports it asks for.
func appendPortDescRequest(b []byte, v Version, xid uint32) []byte {
	start := len(b)
	b = zeros(be16(begin(b, v, typeMultipartRequest, xid), multipartPortDesc), 6)
	if v == Version15 {
		b = zeros(be32(b, anyPort), 4)
	}
	return end(b, start)
}

// decodePortDesc reads one part of the reply; more says that another follows.
func decodePortDesc(body []byte) (ports []PortStatus, more bool, err error) {
	if len(body) < 8 {
		return nil, false, errTruncated
	}
	if kind := binary.BigEndian.Uint16(body); kind != multipartPortDesc {
		return nil, false, fmt.Errorf("multipart reply of type %d to a request for ports", kind)
	}
	more = binary.BigEndian.Uint16(body[2:])&multipartMore != 0
	for b := body[8:]; len(b) > 0; {
		if len(b) < portFixed {
			return nil, false, errTruncated
		}
		length := int(binary.BigEndian.Uint16(b[4:]))
		if length < portFixed || length > len(b) {
			return nil, false, fmt.Errorf("a port of %d bytes in %d", length, len(b))
		}
		ports = append(ports, decodePort(b))
		b = b[length:]
	}
	return ports, more, nil
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
