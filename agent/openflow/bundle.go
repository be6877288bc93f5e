package openflow

import (
	"context"
	"errors"
	"fmt"

	"github.com/weft-sdn/weft/agent/flow"
)

// Bundle control types and flags, OpenFlow 1.4 section 7.3.9.
const (
	bundleOpen        = 0
	bundleOpenReply   = 1
	bundleCommit      = 4
	bundleCommitReply = 5
	bundleDiscard     = 6
	bundleDiscarded   = 7
	bundleAtomic      = 1
	bundleOrdered     = 2
	bundleOverhead    = headerLen + 8
	maxMessage        = 0xffff
)

// FlowError is the refusal of one flow: by the bridge, or because it cannot be put on the wire.
type FlowError struct {
	Flow     flow.Flow // for a deletion found by Sync only table, priority and cookie are known
	Deletion bool
	Err      error // a *SwitchError if the bridge said it
}

// Error names the flow in ovs-ofctl's syntax.
func (e *FlowError) Error() string {
	verb := "adding"
	if e.Deletion {
		verb = "deleting"
	}
	return fmt.Sprintf("%s flow %q: %v", verb, e.Flow.Text(flow.TextOptions{Cookie: true}), e.Err)
}

// Unwrap gives the cause.
func (e *FlowError) Unwrap() error { return e.Err }

// BundleError says that a bundle was refused as a whole, and which of its flows were to blame. Nothing was changed. The
// bridge stops at the first flow that fails at commit, so there may be more bad ones than are named.
type BundleError struct {
	Refused []*FlowError
	Err     error // the bundle's own error, if any
}

// Error tells of the first flow and the number of others.
func (e *BundleError) Error() string {
	switch len(e.Refused) {
	case 0:
		return fmt.Sprintf("the bundle was refused, nothing was changed: %v", e.Err)
	case 1:
		return fmt.Sprintf("the bundle was refused, nothing was changed: %v", e.Refused[0])
	}
	return fmt.Sprintf("the bundle was refused, nothing was changed: %v; and %d other flows", e.Refused[0], len(e.Refused)-1)
}

// Unwrap gives the causes.
func (e *BundleError) Unwrap() []error {
	out := make([]error, 0, len(e.Refused)+1)
	for _, r := range e.Refused {
		out = append(out, r)
	}
	if e.Err != nil {
		out = append(out, e.Err)
	}
	return out
}

// change is one flow mod of a bundle; match is a finished ofp_match, used by deletions only.
type change struct {
	flow     flow.Flow
	deletion bool
	match    []byte
}

func (ch change) append(b []byte, v Version, xid uint32) ([]byte, error) {
	if ch.deletion {
		return appendDelete(b, v, xid, ch.flow.Table, ch.flow.Priority, ch.flow.Cookie, ch.match), nil
	}
	return appendAdd(b, v, xid, ch.flow)
}

// bundle is the state of one bundle's dialogue. Transaction ids: open, one per change, barrier; then commit or discard.
type bundle struct {
	id      uint32
	first   uint32
	changes []change
	failed  BundleError
}

// commit writes all changes as one atomic and ordered bundle. The caller holds the turn.
func (c *Conn) commit(ctx context.Context, changes []change) error {
	n := uint32(len(changes))
	first := c.take(n + 3)
	b := &bundle{id: first, first: first, changes: changes}
	requests, err := b.requests(c.version)
	if err != nil {
		return err
	}
	// OVS commits a bundle without the messages that it refused to take in, so the commit waits for the barrier.
	op := &operation{first: first, count: n + 2, handle: func(m message) (bool, error) { return b.filled(m) }}
	if err := c.exchange(ctx, requests, op); err != nil {
		return err
	}
	if b.failed.Err != nil || len(b.failed.Refused) > 0 {
		return b.abandon(ctx, c)
	}
	op = &operation{first: first, count: n + 3, handle: func(m message) (bool, error) { return b.committed(m) }}
	if err := c.exchange(ctx, appendBundleControl(nil, c.version, first+n+2, b.id, bundleCommit), op); err != nil {
		return err
	}
	if b.failed.Err != nil {
		return &b.failed
	}
	return nil
}

// abandon throws the open bundle away and gives the reason why.
func (b *bundle) abandon(ctx context.Context, c *Conn) error {
	xid := b.last()
	op := &operation{first: xid, count: 1, handle: func(m message) (bool, error) { return true, bundleReply(m, bundleDiscarded) }}
	err := c.exchange(ctx, appendBundleControl(nil, c.version, xid, b.id, bundleDiscard), op)
	var sw *SwitchError
	if err != nil && !errors.As(err, &sw) {
		return errors.Join(&b.failed, err)
	}
	// A bundle that never opened, or that OVS has dropped by itself, can't be discarded: that is no news.
	return &b.failed
}

// last is the transaction id of the commit or discard.
func (b *bundle) last() uint32 { return b.first + uint32(len(b.changes)) + 2 }

func (b *bundle) requests(v Version) ([]byte, error) {
	out := make([]byte, 0, 160*(len(b.changes)+1))
	out = appendBundleControl(out, v, b.first, b.id, bundleOpen)
	for i, ch := range b.changes {
		var err error
		if out, err = b.appendChange(out, v, b.first+1+uint32(i), ch); err != nil {
			return nil, &BundleError{Refused: []*FlowError{{Flow: ch.flow, Deletion: ch.deletion, Err: err}}}
		}
	}
	start := len(out)
	return end(begin(out, v, typeBarrierRequest, b.last()-1), start), nil
}

// appendChange writes OFPT_BUNDLE_ADD_MESSAGE; the inner message must have the outer one's transaction id.
func (b *bundle) appendChange(out []byte, v Version, xid uint32, ch change) ([]byte, error) {
	start := len(out)
	out = be32(begin(out, v, typeBundleAdd, xid), b.id)
	out = be16(be16(out, 0), bundleAtomic|bundleOrdered)
	out, err := ch.append(out, v, xid)
	if err != nil {
		return nil, err
	}
	if n := len(out) - start; n > maxMessage {
		return nil, fmt.Errorf("it takes %d bytes, an OpenFlow message holds %d: split its outputs over several tables", n-bundleOverhead, maxMessage-bundleOverhead)
	}
	return end(out, start), nil
}

func appendBundleControl(b []byte, v Version, xid, id uint32, kind uint16) []byte {
	start := len(b)
	b = be32(begin(b, v, typeBundleControl, xid), id)
	return end(be16(be16(b, kind), bundleAtomic|bundleOrdered), start)
}

// filled takes the replies up to the barrier.
func (b *bundle) filled(m message) (bool, error) {
	switch {
	case m.xid == b.last()-1:
		return true, expect(m, typeBarrierReply)
	case m.xid == b.first:
		if err := bundleReply(m, bundleOpenReply); err != nil {
			b.failed.Err = fmt.Errorf("opening it: %w", err)
		}
		return false, nil
	}
	return false, b.refuse(m)
}

// committed takes the replies to the commit: errors of single flows, then the bundle's.
func (b *bundle) committed(m message) (bool, error) {
	if m.xid != b.last() {
		return false, b.refuse(m)
	}
	err := bundleReply(m, bundleCommitReply)
	var sw *SwitchError
	if errors.As(err, &sw) {
		b.failed.Err = sw
		return true, nil
	}
	return true, err
}

// refuse notes the error of one flow.
func (b *bundle) refuse(m message) error {
	if m.kind != typeError {
		return nil
	}
	i := int(m.xid - b.first - 1)
	e, err := decodeError(m.body)
	if err != nil {
		return err
	}
	ch := b.changes[i]
	b.failed.Refused = append(b.failed.Refused, &FlowError{Flow: ch.flow, Deletion: ch.deletion, Err: e})
	return nil
}
