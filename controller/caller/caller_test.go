package caller

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	_ "github.com/weft-sdn/weft/proto/weft/v1" // registers the services
)

// methods are all of the API's, by full name.
func methods() map[string]bool {
	out := map[string]bool{}
	protoregistry.GlobalFiles.RangeFilesByPackage("weft.v1", func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			s := file.Services().Get(i)
			for j := range s.Methods().Len() {
				out[string(s.FullName())+"/"+string(s.Methods().Get(j).Name())] = true
			}
		}
		return true
	})
	return out
}

func TestEveryMethodHasARow(t *testing.T) {
	for m := range methods() {
		if _, ok := policy(acts()).of("/" + m); !ok {
			t.Errorf("%s has no row in the table: say what it does", m)
		}
	}
}

func TestWhatHasNoRowIsAnAdminsAlone(t *testing.T) {
	a, ok := policy(acts()).of("/weft.v1.NetworkService/Explode")
	if ok || a.least() != Admin || !a.mutates() {
		t.Errorf("an unknown method: %v, from %s on", ok, a.least())
	}
}

func TestProjectsAndRoles(t *testing.T) {
	for _, c := range []struct {
		caller              Caller
		sees, changes, runs bool // of project red
	}{
		{Caller{}, false, false, false},
		{Caller{Projects: []string{"red"}}, false, false, false},
		{Caller{Role: Reader, Projects: []string{"red"}}, true, false, false},
		{Caller{Role: Reader, Projects: []string{"blue"}}, false, false, false},
		{Caller{Role: Member, Projects: []string{"blue", "red"}}, true, true, false},
		{Caller{Role: Member, Projects: []string{"blue"}}, false, false, false},
		{Caller{Role: Operator}, true, false, true},
		{Caller{Role: Operator, Projects: []string{"red"}}, true, true, true},
		{Caller{Role: Admin}, true, true, true},
	} {
		if c.caller.Sees("red") != c.sees || c.caller.Changes("red") != c.changes || c.caller.Operates() != c.runs {
			t.Errorf("%+v: sees %t, changes %t, operates %t", c.caller, c.caller.Sees("red"), c.caller.Changes("red"), c.caller.Operates())
		}
	}
}

func hash(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

func write(t *testing.T, path, text string) {
	t.Helper()
	next := path + ".next"
	if err := os.WriteFile(next, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, path); err != nil {
		t.Fatal(err)
	}
}

func TestUsersAreFollowedAndAWrongFileChangesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users.yaml")
	write(t, path, "users: [{name: alice, role: member, projects: [red], tokens_sha256: ["+hash("one")+"]}]")
	u, err := LoadUsers(path)
	if err != nil {
		t.Fatal(err)
	}
	knows := func(token string) bool {
		u.looked = u.looked.Add(-2 * lookEvery)
		_, ok := u.Bearer(token)
		return ok
	}
	if !knows("one") || knows("two") || knows("") {
		t.Error("it knows others than alice")
	}
	write(t, path, "users: [{name: alice, role: emperor}]")
	if !knows("one") {
		t.Error("a wrong file locked alice out")
	}
	write(t, path, "users: [{name: alice, role: member, projects: [red], tokens_sha256: ["+hash("two")+"]}]")
	if knows("one") || !knows("two") {
		t.Error("the new token is not in force, or the old one still is")
	}
}

func TestFilesOfUsersThatAreRefused(t *testing.T) {
	for text, says := range map[string]string{
		"users: [{name: a, role: emperor}]":                                    "emperor",
		"users: [{name: a, role: nobody, tokens_sha256: [" + hash("x") + "]}]": "leave it out",
		"users: [{name: a}]": "role",
		"users: [{name: a, role: admin, subjects: [\"\"]}]":                                            "empty",
		"users: [{name: a, role: admin, subjects: [CN=x]}, {name: b, role: reader, subjects: [CN=x]}]": "b has the subject \"CN=x\"",
		"users: [{role: admin}]":                                                                "name",
		"users: [{name: a, role: member, projects: [\"a b\"]}]":                                 "project",
		"users: [{name: a, role: admin, tokens_sha256: [secret]}]":                              "64 hex digits",
		"users: [{name: a, role: admin, token: secret}]":                                        "no list of users",
		"users: [{name: a, role: admin, tokens_sha256: [" + hash("x") + "," + hash("x") + "]}]": "token of a",
	} {
		path := filepath.Join(t.TempDir(), "users.yaml")
		write(t, path, text)
		_, err := LoadUsers(path)
		if err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", text, err)
		}
	}
	path := filepath.Join(t.TempDir(), "users.yaml")
	write(t, path, "users: []")
	if err := os.Chmod(path, 0o666); err != nil { //nolint:gosec // that is the point
		t.Fatal(err)
	}
	if _, err := LoadUsers(path); err == nil || !strings.Contains(err.Error(), "chmod") {
		t.Errorf("a file that others may write to: %v", err)
	}
}
