package proxy

import "errors"

// errMalformed is answered with 400.
var errMalformed = errors.New("malformed header")

// header follows the octets of a request up to the end of its header and is stricter than net/http: RFC 9112 lets a server
// take a bare LF for the end of a line (2.2) and a folded line (5.2), and what a backend makes of either is not known. It
// does not parse: what it lets through, net/http has to understand.
type header struct {
	last byte // the octet before
	line int  // octets of the line so far, CR and LF not counted
	over bool // the header has ended
}

// check takes the next octets in.
func (h *header) check(octets []byte) error {
	for _, c := range octets {
		if h.over {
			return nil
		}
		if !h.take(c) {
			return errMalformed
		}
		h.last = c
	}
	return nil
}

// take reports whether an octet may follow.
func (h *header) take(c byte) bool {
	switch {
	case c == 0, h.last == '\r' && c != '\n':
		return false
	case c == '\n' && h.last != '\r':
		return false
	case c == '\n':
		h.over = h.line == 0
		h.line = 0
		return true
	case c == '\r':
		return true
	case h.line == 0 && (c == ' ' || c == '\t'):
		return false // a folded line
	}
	h.line++
	return true
}
