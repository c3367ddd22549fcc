package snapshot

import "time"

// meta is what a file is beside its contents.
type meta struct {
	symlink        bool // which has no mode
	mode, uid, gid uint32
	mtime          time.Time
	xattrs         map[string][]byte
}

// isImplied tells whether m, its date aside, is what a directory gets that no layer lists.
func (m meta) isImplied() bool {
	return m.mode == 0o755 && m.uid == 0 && m.gid == 0 && len(m.xattrs) == 0
}

func readMeta(path string) (meta, error) {
	dir, err := openAt(path)
	if err != nil {
		return meta{}, err
	}
	defer dir.close()
	return metaOf(dir)
}

func metaOf(dir at) (meta, error) {
	a, err := dir.stat(".")
	if err != nil {
		return meta{}, err
	}
	xattrs, err := readXattrs(dir, ".")
	return meta{mode: a.perm(), uid: a.uid, gid: a.gid, mtime: a.mtime, xattrs: xattrs}, err
}

// apply gives the file name in dir what m says; "." is dir, whose names must be there
// already. The order matters: chown clears set-user-ID and capabilities.
func (m meta) apply(dir at, name string) error {
	if err := dir.chown(name, m.uid, m.gid); err != nil {
		return err
	}
	if !m.symlink {
		if err := dir.chmod(name, m.mode); err != nil {
			return err
		}
	}
	if err := setXattrs(dir, name, m.xattrs); err != nil {
		return err
	}
	return dir.chtimes(name, m.mtime)
}
