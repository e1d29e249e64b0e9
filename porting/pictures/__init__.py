"""What the pictures of a report need beyond the comparison's rows, computed once from the two traces.

The result is the key `pictures` of the comparison's JSON: plain lists and numbers, bounded in size, so that a
page can be drawn again from the JSON alone.
"""

from porting.pictures.pictures import BucketsOf, pictures_of

__all__ = ["BucketsOf", "pictures_of"]
