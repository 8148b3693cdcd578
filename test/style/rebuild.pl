# An edited header makes what includes it out of date.  If this fails, an edit leaves objects behind that hold an older struct.
use strict;
use warnings;

use lib 'test/style';
use Sources;
use Test::More;

my $built = "$ENV{PLACE}/plain";

is(system("make -q -C $built cqrs.so"), 0, 'nothing is out of date after a build');
foreach my $header (grep { /\.h$/ } c_files())
{
	my $name = $header =~ s{^src/}{}r;
	my @users = grep { contents($_) =~ /#include "\Q$name\E"/ } c_files();

	next unless @users;
	isnt(system("make -q -C $built -W $header cqrs.so"), 0, "an edit of $header rebuilds what includes it");
}
done_testing();
