"""``python -I boot.py scd.runner.fetch CACHE NAME SOURCE REFERENCE``: one package into the cache, by SiliconCompiler's own code.

Prints the package's directory as its last line. No manifest is read, and no Python of a package is imported: sources
that would be, as ``python://``, are none of the network and refused.
"""  # noqa: E501

import os
import sys


def main() -> None:
    cache, name, source, reference = sys.argv[1:]
    os.umask(0o022)  # jobs read it, under whichever account
    from siliconcompiler import Project
    from siliconcompiler.package import RemoteResolver, Resolver

    project = Project("scd")
    project.option.set_cachedir(cache)
    try:
        resolver = Resolver.find_resolver(source)
        if not issubclass(resolver, RemoteResolver):
            sys.exit(f"{source} is not fetched over the network")
        print(resolver(name, project, source, reference).get_path())
    except Exception as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
