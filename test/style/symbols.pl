# On PostgreSQL 15 every symbol that is not static is seen by every other library of the server.  If this fails, one of ours can be
# taken for another's.
use strict;
use warnings;

use Test::More;

my @symbols = map { /^\S+ [A-Z] (\S+)$/ ? $1 : () } `nm -D --defined-only '$ENV{PLACE}/plain/cqrs.so'`;

cmp_ok(scalar @symbols, '>', 10, 'the library exports symbols');
is(join(' ', grep { !/^(?:cqrs_|_PG_init$|_PG_fini$|Pg_magic_func$|pg_finfo_cqrs_)/ } @symbols), '', 'all have our prefix');
done_testing();
