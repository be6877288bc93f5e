// Package schema says which layout of keys and values the store has and whether this release can work on it. The key
// keys.Schema holds the version, a google.protobuf.Int64Value. It is also the mark of a store that is whole: a restore
// takes it away first and puts it back last. It migrates nothing; package controller/migrate does.
package schema

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weft-sdn/weft/proto/keys"
)

// Version is the version of the layout that this release reads and writes.
//
//	1: a router's binding names its rank alone
//	2: a router's binding names all nodes of its plan
//	3: what counts against a quota has a claim on a place
const Version = 3

// Why a store can't be worked on, for errors.Is.
var (
	// ErrNone: there is no version. The store is empty, or being restored.
	ErrNone = errors.New("the store has no schema version: no controller has prepared it yet, or a restore has not ended")
	// ErrOlder: a controller of this release has yet to migrate the store.
	ErrOlder = errors.New("the store has not been migrated yet; start a controller of this release")
	// ErrNewer: a newer release has written the store.
	ErrNewer = errors.New("the store was written by a newer release; upgrade this one")
)

// Value is what keys.Schema holds for a version.
func Value(version int64) proto.Message { return wrapperspb.Int64(version) }

// Parse is the version in the value of keys.Schema; ErrNone for nil.
func Parse(value []byte) (int64, error) {
	if value == nil {
		return 0, ErrNone
	}
	have := &wrapperspb.Int64Value{}
	if err := proto.Unmarshal(value, have); err != nil {
		return 0, fmt.Errorf("key %s does not hold a version: %w", keys.Schema, err)
	}
	if have.GetValue() < 1 {
		return 0, fmt.Errorf("key %s holds version %d; there is none before 1", keys.Schema, have.GetValue())
	}
	return have.GetValue(), nil
}

// Check says whether this release can work on a store whose keys.Schema holds value; nil: it can. Its signature is that
// of a mirror's Options.Check.
func Check(value []byte) error {
	version, err := Parse(value)
	switch {
	case err != nil:
		return err
	case version > Version:
		return fmt.Errorf("%w: schema version %d, this release knows up to %d", ErrNewer, version, Version)
	case version < Version:
		return fmt.Errorf("%w: schema version %d, this release needs %d", ErrOlder, version, Version)
	default:
		return nil
	}
}
