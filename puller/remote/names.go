package remote

import "strings"

// nameBytesMax is more than any file system of a source allows (255 bytes, or 255 characters of up to 4).
const nameBytesMax = 1024

// badName says why a name cannot be an entry of a directory, or nothing.
func badName(name string) string {
	switch {
	case name == "":
		return "empty"
	case name == "." || name == "..":
		return "names a directory itself"
	case len(name) > nameBytesMax:
		return "longer than any file system allows"
	case strings.IndexByte(name, '/') >= 0:
		return "contains a slash"
	case strings.IndexByte(name, 0) >= 0:
		return "contains a NUL byte"
	}
	return ""
}

// checkPath guards the paths that callers hand in, before they reach a server.
func (l Limits) checkPath(op, path string) error {
	if path == "" || path[0] != '/' || strings.IndexByte(path, 0) >= 0 {
		return &ProtocolError{Op: op, Path: path, Detail: "not an absolute path without NUL bytes"}
	}
	if len(path) > l.PathBytes {
		return &LimitError{What: "bytes of a path", Path: path[:min(len(path), 255)], Limit: int64(l.PathBytes), Got: int64(len(path))}
	}
	if n := strings.Count(path, "/"); n > l.Depth {
		return &LimitError{What: "depth of a path", Path: path, Limit: int64(l.Depth), Got: int64(n)}
	}
	return nil
}
