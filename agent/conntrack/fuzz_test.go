package conntrack

import "testing"

// What the kernel says is parsed within its bounds, whatever it is; what was parsed can be written.
func FuzzEvents(f *testing.F) {
	e := Entry{
		Original: Tuple{TCP, [4]byte{10, 0, 0, 10}, [4]byte{203, 0, 113, 1}, 4000, 80},
		Reply:    Tuple{TCP, [4]byte{203, 0, 113, 1}, [4]byte{203, 0, 113, 5}, 80, 4000},
		Status:   Replied | Assured, State: Established, Timeout: 432000,
	}
	f.Add(appendHeader(nil, 0, 0, 1, func(b []byte) []byte {
		return appendState(appendTuple(appendTuple(b, ctaTupleOrig, e.Original), ctaTupleReply, e.Reply), &e)
	}))
	e.Original.Protocol, e.Original.TargetPort = ICMP, 8<<8
	f.Add(appendHeader(nil, 2, 0, 1, func(b []byte) []byte { return appendNew(b, &e) }))
	f.Fuzz(func(t *testing.T, b []byte) {
		n := 0
		_ = readEvents(b, func(e *Event) {
			n++
			if e.Original.Protocol != TCP && e.Original.Protocol != UDP && e.Original.Protocol != ICMP {
				t.Errorf("protocol %d", e.Original.Protocol)
			}
			appendNew(nil, &e.Entry)
		})
		if n > len(b) {
			t.Errorf("%d events of %d bytes", n, len(b))
		}
	})
}

func TestAnEntryIsReadAsItWasWritten(t *testing.T) {
	for _, e := range []Entry{
		{
			Original: Tuple{TCP, [4]byte{10, 0, 0, 10}, [4]byte{203, 0, 113, 1}, 4000, 80},
			Status:   Replied | Assured, State: Established, Timeout: 432000,
		},
		{Original: Tuple{ICMP, [4]byte{10, 0, 0, 10}, [4]byte{203, 0, 113, 1}, 77, 8 << 8}, Timeout: 30},
		{Original: Tuple{UDP, [4]byte{10, 0, 0, 10}, [4]byte{203, 0, 113, 1}, 4000, 53}, Timeout: 30},
	} {
		e.Reply = e.Original.turned()
		if destination, source := e.translations(); destination != nil || source != nil {
			t.Errorf("%v is translated: %v, %v", e, destination, source)
		}
		var got Entry
		ok, err := parseEntry(appendNew(nil, &e), &got)
		got.Status &^= confirmed
		if got.Liberal != (e.Original.Protocol == TCP) {
			t.Errorf("%v is liberal: %v", e, got.Liberal)
		}
		got.Liberal = false
		if !ok || err != nil || got != e {
			t.Errorf("have %+v, %v, %v; want %+v", got, ok, err, e)
		}
		if back := e.Reply.turned(); back != e.Original {
			t.Errorf("turned twice %v is %v", e.Original, back)
		}
	}
}
