package txn_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/proto/txn"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
)

func claims(first, n int) *txn.Txn {
	var t txn.Txn
	for i := range n {
		t.Claim(fmt.Sprint("k", first+i), "port", "p")
	}
	return &t
}

func TestClaimsOfATransactionAreGuardedAndName(t *testing.T) {
	x := claims(1, 1)
	value, err := proto.Marshal(&storev1.Claim{Kind: "port", Id: "p"})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]txn.Guard{{Kind: txn.KeyAbsent, Key: "k1"}}, x.Guards()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]txn.Write{{Key: "k1", Value: value}}, x.Writes()); diff != "" {
		t.Error(diff)
	}
}

func TestAnEmptyMessageIsAPutAndNotADelete(t *testing.T) {
	var x txn.Txn
	x.Put("a", &storev1.Claim{})
	x.PutLeased("b", &storev1.Claim{})
	x.Delete("c")
	want := []txn.Write{{Key: "a", Value: []byte{}}, {Key: "b", Value: []byte{}, Leased: true}, {Key: "c"}}
	if diff := cmp.Diff(want, x.Writes()); diff != "" {
		t.Error(diff)
	}
	if x.Writes()[0].Value == nil || x.Writes()[2].Value != nil {
		t.Error("only a delete has a nil value")
	}
}

func TestTheSameGuardTwiceIsOneGuard(t *testing.T) {
	var x txn.Txn
	for range 2 {
		x.Absent("a")
		x.Exists("b")
		x.Unchanged("c", 7)
		x.NoneUnder("d/")
		x.NoneChangedUnder("e/", 9)
		x.CreatedAt("f", 3)
		x.NoneBetween("g", "h")
	}
	x.Unchanged("c", 8)
	want := []txn.Guard{
		{Kind: txn.KeyAbsent, Key: "a"},
		{Kind: txn.KeyExists, Key: "b"},
		{Kind: txn.KeyUnchanged, Key: "c", Revision: 7},
		{Kind: txn.PrefixEmpty, Key: "d/"},
		{Kind: txn.PrefixUnchanged, Key: "e/", Revision: 9},
		{Kind: txn.KeyCreatedAt, Key: "f", Revision: 3},
		{Kind: txn.RangeEmpty, Key: "g", End: "h"},
		{Kind: txn.KeyUnchanged, Key: "c", Revision: 8},
	}
	if diff := cmp.Diff(want, x.Guards()); diff != "" {
		t.Error(diff)
	}
}

func TestATransactionIsLimited(t *testing.T) {
	if err := claims(0, txn.MaxOps).Err(); err != nil {
		t.Errorf("%d operations: %v", txn.MaxOps, err)
	}
	if err := claims(0, txn.MaxOps+1).Err(); !errors.Is(err, txn.ErrTooLarge) {
		t.Errorf("%d operations: %v", txn.MaxOps+1, err)
	}
	var writes, guards txn.Txn
	for i := range txn.MaxOps + 1 {
		writes.Delete(fmt.Sprint("k", i))
		guards.Exists(fmt.Sprint("k", i))
	}
	if !errors.Is(writes.Err(), txn.ErrTooLarge) || !errors.Is(guards.Err(), txn.ErrTooLarge) {
		t.Errorf("writes alone: %v; guards alone: %v", writes.Err(), guards.Err())
	}
	if len(writes.Writes()) != txn.MaxOps {
		t.Errorf("%d writes are kept", len(writes.Writes()))
	}
}

func TestAKeyWrittenTwiceIsAFaultThatStays(t *testing.T) {
	for name, second := range map[string]func(*txn.Txn){
		"put":    func(x *txn.Txn) { x.Put("a", &storev1.Claim{}) },
		"delete": func(x *txn.Txn) { x.Delete("a") },
	} {
		var x txn.Txn
		x.Put("a", &storev1.Claim{})
		second(&x)
		first := x.Err()
		if first == nil {
			t.Errorf("%s after put: no fault", name)
		}
		for i := range txn.MaxOps {
			x.Delete(fmt.Sprint("k", i))
		}
		if !errors.Is(x.Err(), first) {
			t.Errorf("%s: the fault became %v", name, x.Err())
		}
	}
}

func TestAValueThatCannotBeEncodedIsAFault(t *testing.T) {
	var x txn.Txn
	x.Put("a", &storev1.Claim{Id: "\xff"})
	if x.Err() == nil || len(x.Writes()) != 0 {
		t.Errorf("fault %v, writes %v", x.Err(), x.Writes())
	}
}

func TestMergeAppendsAllOrNothing(t *testing.T) {
	faulty := claims(0, 1)
	faulty.Delete("k0")
	for _, tc := range []struct {
		name         string
		into, from   *txn.Txn
		want         bool
		wantWrites   int
		wantNoChange bool
	}{
		{"two that fit", claims(0, 60), claims(100, 68), true, 128, false},
		{"into an empty one", &txn.Txn{}, claims(0, 3), true, 3, false},
		{"an empty one", claims(0, 3), &txn.Txn{}, true, 3, false},
		{"too large together", claims(0, 61), claims(100, 68), false, 61, true},
		{"one key in both", claims(0, 5), claims(4, 5), false, 5, true},
		{"a faulty one", claims(10, 1), faulty, false, 1, true},
		{"into a faulty one", faulty, claims(10, 1), false, 1, true},
	} {
		guards := len(tc.into.Guards())
		if got := tc.into.Merge(tc.from); got != tc.want {
			t.Errorf("%s: %v", tc.name, got)
		}
		if len(tc.into.Writes()) != tc.wantWrites || tc.wantNoChange && len(tc.into.Guards()) != guards {
			t.Errorf("%s: %d writes, %d guards", tc.name, len(tc.into.Writes()), len(tc.into.Guards()))
		}
	}
}

func TestWhatOneGuardsAndTheOtherWritesIsNotMerged(t *testing.T) {
	for name, guard := range map[string]func(*txn.Txn){
		"a key":            func(x *txn.Txn) { x.Absent("k/5") },
		"an empty prefix":  func(x *txn.Txn) { x.NoneUnder("k/") },
		"a changed prefix": func(x *txn.Txn) { x.NoneChangedUnder("k/", 7) },
		"a range":          func(x *txn.Txn) { x.NoneBetween("k/5", "k/6") },
	} {
		for key, merged := range map[string]bool{"k/5": false, "j/5": true} {
			var guards, writes txn.Txn
			guard(&guards)
			writes.Delete(key)
			if guards.Merge(&writes) != merged {
				t.Errorf("a guard on %s and a write of %s: merged %v", name, key, !merged)
			}
		}
	}
	var before, writes txn.Txn
	before.NoneBetween("k/5", "k/6")
	writes.Delete("k/6") // the end is not part of it
	if !writes.Merge(&before) {
		t.Error("a write of a range's end is not merged")
	}
}
