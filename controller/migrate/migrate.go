// Package migrate brings the layout of a store up to the version that this release works on (package proto/schema). Each
// step is a pure function from what is stored to what has to be written; Run applies them with a guard on everything they
// were computed from, so that any number of controllers may do so at once and one that dies leaves nothing undone: what is
// migrated already needs no write, and the version is raised when nothing is left. It never goes back.
//
// Controllers of the older release must not run meanwhile: they would go on writing the older layout.
package migrate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/schema"
	"github.com/weft-sdn/weft/proto/store"
	"github.com/weft-sdn/weft/proto/txn"
)

// Write is one key to be written.
type Write struct {
	Key string
	// Value is nil for a key to be deleted.
	Value []byte
	// Revision is the key's mod revision that the write is computed from; 0: there is none.
	Revision int64
}

// Step leads from one version of the layout to the next.
type Step struct {
	// From is the version that the step begins with; it ends with the next one.
	From int64
	Doc  string
	// Plan computes the writes that are left to do from all keys below keys.Root, and says in a sentence each what it has to
	// leave as it is.
	Plan func(all []store.Entry) (writes []Write, left []string)
}

// Steps lists all steps, oldest first.
func Steps() []Step {
	return []Step{
		{1, "bindings of routers name all nodes of the plan", planNodes},
		{2, "what counts against a quota has a claim on a place", planPlaces},
	}
}

// Run brings the store to schema.Version. The error is schema.ErrNone, ErrNewer or the store's.
func Run(ctx context.Context, s *store.Store, log *slog.Logger) error {
	return run(ctx, s, log, Steps(), schema.Version)
}

func run(ctx context.Context, s *store.Store, log *slog.Logger, steps []Step, target int64) error {
	for {
		snap, err := s.Read(ctx, store.Key(keys.Schema))
		if err != nil {
			return err
		}
		var value []byte
		var revision int64
		for _, e := range snap.Results[0].Entries {
			value, revision = e.Value, e.Revision
		}
		version, err := schema.Parse(value)
		switch {
		case err != nil:
			return err
		case version > target:
			return fmt.Errorf("%w: schema version %d, this release knows up to %d", schema.ErrNewer, version, target)
		case version == target:
			return nil
		}
		step, err := find(steps, version)
		if err != nil {
			return err
		}
		m := &migration{store: s, log: log, step: step, guard: revision}
		if err := m.run(ctx); err != nil && !errors.Is(err, store.ErrConflict) {
			return fmt.Errorf("migrate the store from schema version %d: %w", version, err)
		}
	}
}

func find(steps []Step, version int64) (Step, error) {
	for _, step := range steps {
		if step.From == version {
			return step, nil
		}
	}
	return Step{}, fmt.Errorf("%w, and this release knows no way from schema version %d", schema.ErrOlder, version)
}

// migration is one step under way.
type migration struct {
	store *store.Store
	log   *slog.Logger
	step  Step
	guard int64 // revision of the schema key
}

// perBatch is how many keys one transaction writes: each has a guard too, and the version is guarded besides.
const perBatch = 100

// run does the step. ErrConflict says that somebody has written meanwhile: look again.
func (m *migration) run(ctx context.Context) error {
	all, err := m.store.Read(ctx, store.Prefix(keys.Root))
	if err != nil {
		return err
	}
	writes, left := m.step.Plan(all.Results[0].Entries)
	for len(writes) > 0 {
		n := min(perBatch, len(writes))
		if err := m.commit(ctx, writes[:n]); err != nil {
			return err
		}
		writes = writes[n:]
	}
	for _, sentence := range left {
		m.log.Warn("not migrated", "reason", sentence)
	}
	t := &txn.Txn{}
	t.Unchanged(keys.Schema, m.guard)
	t.Put(keys.Schema, schema.Value(m.step.From+1))
	if _, err := m.store.Commit(ctx, t, 0); err != nil {
		return err
	}
	m.log.Info("the store has been migrated", "from", m.step.From, "to", m.step.From+1, "what", m.step.Doc)
	return nil
}

func (m *migration) commit(ctx context.Context, writes []Write) error {
	t := &txn.Txn{}
	t.Unchanged(keys.Schema, m.guard)
	for _, w := range writes {
		t.Unchanged(w.Key, w.Revision)
		if w.Value == nil {
			t.Delete(w.Key)
		} else {
			t.PutRaw(w.Key, w.Value)
		}
	}
	_, err := m.store.Commit(ctx, t, 0)
	return err
}
