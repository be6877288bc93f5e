package openflow

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/weft-sdn/weft/agent/flow"
)

// Result says what an operation changed.
type Result struct {
	Added   int
	Deleted int
	// Conflicts are the flows left out because a stranger holds their place. The rest was applied.
	Conflicts []*ConflictError
}

// ConflictError says that a flow of weft was not written because a flow that is not weft's has the same table, priority and
// match: writing it would replace the stranger's.
type ConflictError struct {
	Flow           flow.Flow
	StrangerCookie uint64
}

// Error tells what the operator can do.
func (e *ConflictError) Error() string {
	return fmt.Sprintf("flow %q is not written: a flow with cookie %#x that is not weft's has the same table, priority and match; remove that one", e.Flow, e.StrangerCookie)
}

// strangers are the places held by flows that are not weft's, with their cookies.
type strangers map[flow.Key]uint64

// Sync makes the bridge's flows of weft exactly the desired ones: it lists the flows, compares them, and writes the
// difference as one atomic bundle, additions first, so that no packet meets a gap. If nothing differs nothing is written.
// Flows are compared by (table, priority, cookie) and, in OpenFlow 1.5, by what they do: somebody may have given a flow
// other actions under its cookie. Flows with cookies that are not weft's stay as they are; a desired flow whose place one of
// them holds is left out and reported in Conflicts. Desired flows must carry cookies (flow.Set gives them) and distinct keys.
//
// A refused bundle is a *BundleError that names the flows; the bridge is then unchanged. Leave out everything that belongs
// to the same object and sync again.
func (c *Conn) Sync(ctx context.Context, desired []flow.Flow) (Result, error) {
	return c.sync(ctx, desired, true)
}

// Fill is Sync for a caller that does not know all that is desired: it deletes nothing. A flow in the place of a desired one
// is replaced all the same.
func (c *Conn) Fill(ctx context.Context, desired []flow.Flow) (Result, error) {
	return c.sync(ctx, desired, false)
}

// Diff is what Sync would do: nothing is written. Flows whose place a stranger holds are among the missing ones.
func (c *Conn) Diff(ctx context.Context, desired []flow.Flow) (Difference, error) {
	if err := checkCookies(desired); err != nil {
		return Difference{}, err
	}
	var d Difference
	err := c.exclusive(ctx, func() error {
		entries, err := c.dump(ctx)
		if err != nil {
			return fmt.Errorf("listing flows: %w", err)
		}
		d, err = c.compare(entries, desired)
		return err
	})
	return d, err
}

func (c *Conn) sync(ctx context.Context, desired []flow.Flow, surplus bool) (Result, error) {
	if err := checkCookies(desired); err != nil {
		return Result{}, err
	}
	var res Result
	err := c.exclusive(ctx, func() error {
		entries, err := c.dump(ctx)
		if err != nil {
			return fmt.Errorf("listing flows: %w", err)
		}
		c.remember(entries)
		d, err := c.compare(entries, desired)
		if err != nil {
			return err
		}
		var deletes []change
		if surplus {
			deletes = deletions(d.Surplus)
		}
		if res, err = c.apply(ctx, slices.Concat(d.Missing, d.Altered), deletes); err == nil && len(d.Altered) > 0 {
			err = c.learnForms(ctx, d.Altered)
		}
		return err
	})
	return res, err
}

// Apply adds and deletes flows as one atomic bundle, additions first: to change a flow's actions, give the new one as an
// addition and the old one as a deletion. Deleting a flow that is not there succeeds. It does not list the bridge's flows:
// the strangers it spares are those that the last Sync saw, so a stranger's flow that appeared since in the very place of an
// addition is overwritten. Errors as for Sync.
func (c *Conn) Apply(ctx context.Context, adds, deletes []flow.Flow) (Result, error) {
	if err := errors.Join(checkCookies(adds), checkCookies(deletes)); err != nil {
		return Result{}, err
	}
	changes := make([]change, 0, len(deletes))
	for _, f := range deletes {
		match, err := appendMatch(nil, f.Match)
		if err != nil {
			return Result{}, &FlowError{Flow: f, Deletion: true, Err: err}
		}
		changes = append(changes, change{flow: f, deletion: true, match: match})
	}
	var res Result
	err := c.exclusive(ctx, func() error {
		var err error
		res, err = c.apply(ctx, adds, changes)
		return err
	})
	return res, err
}

// apply commits additions that do not meet a stranger, then deletions. The caller holds the turn.
func (c *Conn) apply(ctx context.Context, adds []flow.Flow, deletes []change) (Result, error) {
	var res Result
	changes := make([]change, 0, len(adds)+len(deletes))
	for _, f := range adds {
		if conflict := c.conflict(f); conflict != nil {
			res.Conflicts = append(res.Conflicts, conflict)
			continue
		}
		changes = append(changes, change{flow: f})
	}
	added := len(changes)
	changes = append(changes, deletes...)
	if len(changes) == 0 {
		return res, nil
	}
	if err := c.commit(ctx, changes); err != nil {
		return res, fmt.Errorf("OpenFlow socket %s: %w", c.socket, err)
	}
	res.Added, res.Deleted = added, len(deletes)
	return res, nil
}

// checkCookies refuses flows that could not be recognised as weft's later.
func checkCookies(flows []flow.Flow) error {
	for _, f := range flows {
		if !flow.Owned(f.Cookie) {
			return &FlowError{Flow: f, Err: fmt.Errorf("its cookie is not one of weft's; use flow.Set or WithCookie")}
		}
	}
	return nil
}

// remember notes the places that strangers hold.
func (c *Conn) remember(entries []Entry) {
	found := strangers{}
	for _, e := range entries {
		if e.Owned() {
			continue
		}
		if match, ok := decodeMatch(e.match); ok {
			found[flow.Flow{Table: e.Table, Priority: e.Priority, Match: match}.Key()] = e.Cookie
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.strangers = found
}

func (c *Conn) conflict(f flow.Flow) *ConflictError {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.strangers) == 0 {
		return nil
	}
	if cookie, ok := c.strangers[f.Key()]; ok {
		return &ConflictError{Flow: f, StrangerCookie: cookie}
	}
	return nil
}

func deletions(surplus []Entry) []change {
	out := make([]change, 0, len(surplus))
	for _, e := range surplus {
		f := flow.Flow{Table: e.Table, Priority: e.Priority, Cookie: e.Cookie}
		out = append(out, change{flow: f, deletion: true, match: appendRawMatch(nil, e.match)})
	}
	return out
}
