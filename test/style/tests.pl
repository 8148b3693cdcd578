# Tests are whole: what has no expected output is not compared with anything, and what has no input is never run.
use strict;
use warnings;

use lib 'test/style';
use Sources;
use Test::More;

# The names of files without folder and ending.
sub names
{
	my ($pattern) = @_;

	return join(' ', sort map { m{([^/.]+)(?:_\d)?\.\w+$} ? $1 : () } grep { -f } glob($pattern));
}

is(names('expected/*.out'), names('sql/*.sql'), 'every test of sql has its expected output');
is(names('test/isolation/expected/*.out'), names('test/isolation/specs/*.spec'), 'every spec has its expected output');
foreach my $path (glob('sql/*.sql test/isolation/specs/*.spec test/t/*.pl test/style/*.pl test/random/*.pl test/soak/*.pl'))
{
	like(contents($path), qr/\A(?:--|#)/, "$path opens with a comment that says what it tries to break");
}
foreach my $path (glob('test/*/run test/run/* .ci/run'))
{
	is(system("bash -n $path"), 0, "$path parses");
}
done_testing();
