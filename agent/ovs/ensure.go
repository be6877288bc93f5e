package ovs

import (
	"context"
	"errors"
	"fmt"

	"github.com/ovn-org/libovsdb/ovsdb"

	"github.com/weft-sdn/weft/agent/desired"
)

// Change is what one transaction should achieve. Everything in it is level, not edge: what is so already costs nothing.
type Change struct {
	// Bridges are created, or brought to this shape, with fail_mode secure and weft's mark bridge:<name>.
	Bridges []desired.Bridge
	// DeleteBridges go with all their ports; a bridge on which a stranger's port sits is refused.
	DeleteBridges []string
	// Ports are created, or brought to this shape. Their ExternalIDs must hold OwnerKey. For type PortForeign only Tag counts:
	// the port that holds the interface of that name gets it; Tag 0 takes away a tag that weft gave.
	Ports []desired.Port
	// DeletePorts names ports of weft; a missing one is success.
	DeletePorts []string
	// ClearTags names strangers' ports that lose the tag that weft gave them; a missing one is success.
	ClearTags []string
	// BridgeIDs are notes kept on bridges of weft.
	BridgeIDs []BridgeIDs
	// Wait makes Ensure return only when ovs-vswitchd has carried out the change: ports have numbers, or errors. Without it
	// Ensure returns once the database has the change.
	Wait bool
}

// BridgeIDs sets and deletes keys of a bridge's external_ids. Keys must begin with "weft-" and not be OwnerKey.
type BridgeIDs struct {
	Bridge string
	Set    map[string]string
	Delete []string
}

// Result says what Ensure did.
type Result struct {
	// Operations is how many OVSDB operations were written; 0 means that everything was so already.
	Operations int
	// Refused are the objects left out, each with its reason. Everything else was done.
	Refused []*RefusedError
}

// RefusedError says why one object was left out of a transaction.
type RefusedError struct {
	Kind string // "bridge" or "port"
	Name string
	Err  error
}

// Error names the object.
func (e *RefusedError) Error() string { return fmt.Sprintf("OVS %s %s: %v", e.Kind, e.Name, e.Err) }

// Unwrap gives the reason.
func (e *RefusedError) Unwrap() error { return e.Err }

// Reasons for a refusal, for errors.Is.
var (
	ErrNotOwned = errors.New("it is not weft's")
	ErrNotFound = errors.New("there is no such thing in the database")
	ErrInvalid  = errors.New("the request is invalid")
)

// attempts bounds how often a transaction is planned anew because the database had changed under it, or had refused one
// object, which is then left out.
const attempts = 8

// Ensure makes the change in one transaction: all of it at once, apart from objects that are refused and reported in the
// result. It plans against the database as it is now, re-checks ownership inside the transaction, and plans again if
// somebody was faster. It is idempotent. ErrDisconnected means that nothing, or (if the connection broke meanwhile)
// possibly everything was done: call it again.
func (c *Client) Ensure(ctx context.Context, ch Change) (Result, error) {
	select {
	case c.turn <- struct{}{}:
	case <-ctx.Done():
		return Result{}, context.Cause(ctx)
	}
	res, goal, err := c.ensure(ctx, ch)
	<-c.turn
	if err != nil || !ch.Wait {
		return res, err
	}
	if _, err := c.WaitFor(ctx, func(s *Snapshot) bool { return s.CurCfg >= goal }); err != nil {
		return res, fmt.Errorf("the database has the change, but ovs-vswitchd has not carried it out: %w", err)
	}
	return res, nil
}

// ensure gives also the configuration number that ovs-vswitchd will have reached.
func (c *Client) ensure(ctx context.Context, ch Change) (Result, int, error) {
	banned := map[object]error{}
	var last error
	for range attempts {
		s, view, err := c.live()
		if err != nil {
			return Result{}, 0, err
		}
		p := plan(view, ch, banned)
		if len(p.ops) == 0 {
			return Result{Refused: p.refused}, view.NextCfg, nil
		}
		written := len(p.ops)
		if ch.Wait {
			p.requestConfig(view.root)
		}
		results, err := s.transact(ctx, p.ops)
		c.refresh()
		if err != nil {
			return Result{}, 0, err
		}
		i, failure := firstFailure(results)
		if failure == nil {
			return Result{Operations: written, Refused: p.refused}, p.goal(results), nil
		}
		last = failure
		if i < len(p.by) && p.by[i] != (object{}) && !errors.Is(failure, errStale) {
			banned[p.by[i]] = failure
		}
		if err := ctx.Err(); err != nil {
			return Result{}, 0, context.Cause(ctx)
		}
	}
	return Result{}, 0, fmt.Errorf("OVSDB refused the transaction %d times: %w", attempts, last)
}

// live is the session and the view to plan against.
func (c *Client) live() (*session, *Snapshot, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.session == nil {
		return nil, nil, fmt.Errorf("%s: %w", c.opts.Endpoint, ErrDisconnected)
	}
	return c.session, c.current(), nil
}

// refresh makes the next snapshot be built anew: the cache is up to date before its events have been handled.
func (c *Client) refresh() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.touch()
}

// errStale says that the database was not as the plan assumed; planning again helps.
var errStale = errors.New("the database changed meanwhile")

// firstFailure finds the operation that made the transaction fail. Past the last operation stands an error of the commit
// itself (RFC 7047 section 4.1.3).
func firstFailure(results []ovsdb.OperationResult) (int, error) {
	for i, r := range results {
		switch r.Error {
		case "":
		case "timed out": // of a wait operation, which tested an assumption
			return i, errStale
		default:
			return i, fmt.Errorf("%s: %s", r.Error, r.Details)
		}
	}
	return 0, nil
}
