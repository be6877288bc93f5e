package openflow

import (
	"bytes"
	"testing"

	"github.com/weft-sdn/weft/agent/flow"
)

// sample is a flow-stats reply of each version, as a bridge with one flow would send it.
func sample(t testing.TB, v Version) []byte {
	t.Helper()
	match, err := appendMatch(nil, flow.NewMatch(flow.InPort(1), flow.VLAN(5), flow.RegMasked(2, 1, 3)))
	if err != nil {
		t.Fatal(err)
	}
	entry := zeros(nil, 48)
	entry[2] = 7
	if v == Version15 {
		entry = zeros(nil, 24)
		entry[4] = 7
	}
	entry = append(entry, match...)
	if v == Version15 {
		entry = append(entry, 0, 0, 0, 16, 0x80, 0x02, 4<<1, 8, 0, 0, 0, 0, 0, 0, 0, 9)
	}
	entry[0], entry[1] = byte(len(entry)>>8), byte(len(entry))
	body := append([]byte{0, multipartFlow, 0, multipartMore, 0, 0, 0, 0}, entry...)
	return end(append(begin(nil, v, typeMultipartReply, 3), body...), 0)
}

// FuzzDecode feeds the decoders what a broken or hostile peer might send: they may refuse it, never panic or read astray.
func FuzzDecode(f *testing.F) {
	for _, v := range []Version{Version14, Version15} {
		f.Add(sample(f, v))
		f.Add(appendHello(nil, []Version{v}))
	}
	f.Add(end(append(begin(nil, Version14, typeError, 1), 0, 2, 0, 3), 0))
	f.Add(appendBundleControl(nil, Version14, 1, 1, bundleOpenReply))
	f.Add([]byte{5, 0, 0, 4, 0, 0, 0, 0})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := readMessage(bytes.NewReader(data))
		if err != nil {
			return
		}
		// Every decoder sees every body: a peer may send any type in any place.
		_, _ = negotiate(m, []Version{Version14, Version15})
		_, _ = decodeError(m.body)
		_, _, _ = decodePortDesc(m.body)
		_ = bundleReply(m, bundleOpenReply)
		for _, v := range []Version{Version14, Version15} {
			entries, _, err := decodeFlowReply(v, m.body)
			if err != nil {
				continue
			}
			for _, e := range entries {
				checkEntry(t, e)
			}
		}
	})
}

// checkEntry says that what is understood as a match means the same when it is written again.
func checkEntry(t *testing.T, e Entry) {
	t.Helper()
	match, ok := decodeMatch(e.match)
	if !ok || (flow.Flow{Match: match}).Validate() != nil {
		return
	}
	again, err := appendMatch(nil, match)
	if err != nil {
		t.Fatalf("%s cannot be written: %v", match, err)
	}
	fields, _, err := splitMatch(again)
	if err != nil {
		t.Fatal(err)
	}
	if second, ok := decodeMatch(fields); !ok || second.String() != match.String() {
		t.Fatalf("%s became %s", match, second)
	}
}

func TestDecodesBothShapesOfFlowEntries(t *testing.T) {
	for v, packets := range map[Version]uint64{Version14: 0, Version15: 9} {
		m, err := readMessage(bytes.NewReader(sample(t, v)))
		if err != nil {
			t.Fatal(err)
		}
		entries, more, err := decodeFlowReply(v, m.body)
		if err != nil || !more || len(entries) != 1 || entries[0].Table != 7 || entries[0].Packets != packets {
			t.Errorf("%s: %+v, %t, %v", v, entries, more, err)
		}
	}
}

func TestNegotiationTakesTheHighestCommonVersion(t *testing.T) {
	both := []Version{Version14, Version15}
	for name, c := range map[string]struct {
		hello []byte
		want  Version
	}{
		"both":                     {appendHello(nil, both), Version15},
		"1.4 only":                 {appendHello(nil, both[:1]), Version14},
		"no bitmap, up to 1.5":     {end(begin(nil, Version15, typeHello, 0), 0), Version15},
		"no bitmap, up to 1.3":     {end(begin(nil, 4, typeHello, 0), 0), 0},
		"bitmap without 1.4":       {appendHello(nil, []Version{1, 4}), 0},
		"experimental version 255": {end(begin(nil, 255, typeHello, 0), 0), 0},
	} {
		m, err := readMessage(bytes.NewReader(c.hello))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := negotiate(m, both); got != c.want || (err == nil) != (c.want != 0) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

func FuzzPortStatus(f *testing.F) {
	live := make([]byte, 8+40)
	copy(live[8+16:], "vxlan-0a1f0001")
	live[8+39] = portStateLive
	gone := append([]byte{reasonDeleted}, live[1:]...)
	f.Add(live)
	f.Add(append(gone, make([]byte, 16)...))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, body []byte) {
		s, err := decodePortStatus(body)
		if (err == nil) != (len(body) >= 48) {
			t.Fatalf("%d bytes: %v", len(body), err)
		}
		if len(s.Name) > 16 || (s.Deleted && s.Live) {
			t.Errorf("%+v", s)
		}
	})
}
