package openflow

import (
	"context"
	"fmt"

	"github.com/weft-sdn/weft/agent/flow"
)

// Difference is how a bridge's flows of weft differ from the desired ones.
type Difference struct {
	// Missing are desired and not there.
	Missing []flow.Flow
	// Altered are there, under the desired cookie, but do something else.
	Altered []flow.Flow
	// Surplus are there and not desired.
	Surplus []Entry
}

// Empty says that everything is as desired.
func (d Difference) Empty() bool { return len(d.Missing)+len(d.Altered)+len(d.Surplus) == 0 }

// identity is what two flows that are taken for the same have in common, see package flow.
type identity struct {
	table    uint8
	priority uint16
	cookie   uint64
}

func (e Entry) identity() identity { return identity{e.Table, e.Priority, e.Cookie} }

func identityOf(f flow.Flow) identity { return identity{f.Table, f.Priority, f.Cookie} }

// compare finds the difference. The caller holds the turn.
func (c *Conn) compare(entries []Entry, desired []flow.Flow) (Difference, error) {
	have := make(map[identity]Entry, len(entries))
	for _, e := range entries {
		have[e.identity()] = e
	}
	var d Difference
	want := make(map[identity]bool, len(desired))
	for _, f := range desired {
		want[identityOf(f)] = true
		e, there := have[identityOf(f)]
		if !there {
			d.Missing = append(d.Missing, f)
			continue
		}
		same, err := c.does(e, f)
		if err != nil {
			return Difference{}, &FlowError{Flow: f, Err: err}
		}
		if !same {
			d.Altered = append(d.Altered, f)
		}
	}
	for _, e := range entries {
		if e.Owned() && !want[e.identity()] {
			d.Surplus = append(d.Surplus, e)
		}
	}
	return d, nil
}

// does reports whether an entry does what a flow should. In OpenFlow 1.5 OVS prints instructions as they were written, byte
// for byte; a form of its own is known by learnForms. In 1.4 it prints some by other names, and the cookie has to do.
func (c *Conn) does(e Entry, f flow.Flow) (bool, error) {
	if c.version != Version15 {
		return true, nil
	}
	c.scratch = c.scratch[:0]
	wrote, err := appendInstructions(c.scratch, c.version, f.Actions)
	if err != nil {
		return false, err
	}
	c.scratch = wrote
	return string(wrote) == string(e.instructions) || c.forms[e.identity()] == string(e.instructions) && len(e.instructions) > 0, nil
}

// learnForms reads how the bridge prints flows that have just been written: a bridge that prints them in a form of its own
// must not have them written for ever. The caller holds the turn.
func (c *Conn) learnForms(ctx context.Context, written []flow.Flow) error {
	entries, err := c.dump(ctx)
	if err != nil {
		return fmt.Errorf("listing flows: %w", err)
	}
	d, err := c.compare(entries, written)
	if err != nil {
		return err
	}
	differ := make(map[identity]bool, len(d.Altered))
	for _, f := range d.Altered {
		differ[identityOf(f)] = true
	}
	for _, e := range entries {
		if differ[e.identity()] {
			if c.forms == nil {
				c.forms = map[identity]string{}
			}
			c.forms[e.identity()] = string(e.instructions)
		}
	}
	return nil
}

// Text is the place of a flow that is on the bridge, in ovs-ofctl's syntax. Fields that weft never uses are left out.
func (e Entry) Text() string {
	match, _ := decodeMatch(e.match)
	out := fmt.Sprintf("cookie=%#x, table=%d, priority=%d", e.Cookie, e.Table, e.Priority)
	if text := match.String(); text != "" {
		out += "," + text
	}
	return out
}
