package schema_test

import (
	"errors"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/proto/schema"
)

func TestOnlyTheOwnVersionIsWorkedOn(t *testing.T) {
	encoded := func(version int64) []byte {
		raw, err := proto.Marshal(schema.Value(version))
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	for _, tc := range []struct {
		name  string
		value []byte
		want  error
	}{
		{"none", nil, schema.ErrNone},
		{"an older one", encoded(schema.Version - 1), schema.ErrOlder},
		{"the own", encoded(schema.Version), nil},
		{"a newer one", encoded(schema.Version + 1), schema.ErrNewer},
	} {
		if err := schema.Check(tc.value); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
		}
	}
	for name, value := range map[string][]byte{"zero": {}, "negative": encoded(-1), "no message": {0xff}} {
		err := schema.Check(value)
		if err == nil || errors.Is(err, schema.ErrNone) || errors.Is(err, schema.ErrNewer) || errors.Is(err, schema.ErrOlder) {
			t.Errorf("%s: %v, want that it is no version", name, err)
		}
	}
}
