"""The words, names and numbers that fill the dialogues, split into training and held-out halves.

Every filler is training or held-out by a hash of its lower-case text, so the two never meet.
Single digits are in both: there are only ten.
"""

import random
import zlib
from collections.abc import Callable

HELD_OUT_SHARE = 8  # one filler in eight is held out
ONSETS = "b br c ch cl d dr f fl g gr h j k kl l m n p pl qu r s sh st t tr v w y z".split()
VOWELS = "a a e e i o o u ai ea ei ia ie io oo ou y".split()
CODAS = "b ck d f l ll m n nd ng nn p r rd rn s ss st t th x z".split()

NAMES = (
    "Miso Rex Luna Max Bella Charlie Coco Rocky Oscar Felix Nala Simba Toby Daisy Milo Buddy Anna "
    "Ben Carla David Emma Frank Grace Hannah Ivan Julia Kevin Laura Maria Nina Olga Paul Quentin "
    "Robert Sara Thomas Uma Victor Wendy Xavier Yara Zoe Ahmed Aisha Akira Bjorn Chen Diego Elena "
    "Fatima Giulia Hiro Ines Jamal Kofi Lars Mei Noah Omar Priya Raj Sven Tariq Ursula Viktor Wei "
    "Yusuf Zara Alice Bob Carol Dan Eve Henry Jack Kate Leo Mike Nora Peter Rosa Sam Tina Tom Amy "
    "Ruby Ziggy Pepper Whiskers Shadow Ginger Biscuit Mochi Tofu Nemo Kiki Lulu Bruno Otto Clara"
).split()
CITIES = (
    "Oslo Paris London Berlin Madrid Rome Vienna Prague Warsaw Lisbon Dublin Athens Helsinki "
    "Kyoto Seoul Beijing Delhi Mumbai Cairo Lagos Nairobi Accra Lima Bogota Quito Boston Chicago "
    "Denver Seattle Austin Toronto Montreal Sydney Perth Auckland Zurich Geneva Hamburg Munich "
    "Lyon Milan Naples Porto Krakow Riga Tallinn Vilnius Bergen Malmo Norway Spain Italy Japan"
).split()
JOBS = (
    "teacher|nurse|doctor|baker|driver|plumber|lawyer|farmer|painter|carpenter|pilot|chef|engineer|"
    "gardener|writer|dentist|electrician|librarian|musician|programmer|waiter|tailor|mechanic|"
    "photographer|accountant|software engineer|bus driver|train driver|school teacher|cleaner"
).split("|")
FOODS = (
    "peanuts|milk|eggs|shrimp|strawberries|pizza|sushi|pasta|apples|cheese|bread|rice|soup|tomatoes|"
    "chocolate|mushrooms|olives|mango|noodles|curry|pancakes|ice cream|fish|carrots|honey|tea|"
    "coffee|lemonade|wheat|walnuts|shellfish|soy|garlic|onions|bananas|cherries|grapes|potatoes"
).split("|")
THINGS = (
    "lamp|table|book|bag|key|umbrella|ticket|jacket|hat|phone|camera|guitar|piano|"
    "violin|drum|flute|chess|tennis|football|swimming|hiking|painting|gardening|cooking|reading|"
    "blue|green|red|yellow|purple|orange|black|white|silver|winter|summer|autumn|spring|garden|"
    "kitchen|garage|drawer|cellar|attic|shelf|box|basket|cupboard|bridge|river|forest|island|"
    "castle|tower|market|museum|library|station|harbour|hospital|school|jazz|rock|history|maths|"
    "physics|biology|french|spanish|german|latin|hello|world|milk|shopping|bread|meeting|call|"
    "report|plan|draft|letter|song|poem|idea|recipe|budget|invoice|diary|summary|notes|todo|"
    "apple|cloud|stone|candle|window|mirror|carpet|pillow|blanket|bottle|spoon|plate|clock|rope|"
    "wheel|engine|boat|train|plane|ladder|hammer|nail|paint|brush|paper|pencil|ink|stamp|coin|"
    "ring|scarf|glove|boot|button|needle|thread|wool|silk|cotton|leather|wood|iron|gold|copper|"
    "glass|sand|salt|sugar|pepper|oil|water|fire|smoke|steam|wind|storm|thunder|rain|snow|ice|"
    "moon|star|sun|planet|comet|hill|valley|lake|beach|wave|cave|path|road|street|square|park|"
    "fountain|statue|bench|fence|gate|door|roof|wall|floor|stairs|chimney|balcony|camp"
).split("|")
MONTHS = (
    "January February March April May June July August September October November December"
).split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
EXTENSIONS = "txt txt txt md csv log json py".split()
POOLS = {"name": NAMES, "city": CITIES, "job": JOBS, "food": FOODS, "thing": THINGS}


def is_held_out(filler: str) -> bool:
    """Whether a filler is only for evaluation; single digits never are."""
    if len(filler) == 1:
        return False
    return zlib.crc32(filler.lower().encode()) % HELD_OUT_SHARE == 0


ALPHABET = "abcdefghijklmnopqrstuvwxyz"
SCRAP_SOURCES = sorted(
    {
        part.lower()
        for pool in POOLS.values()
        for word in pool
        for part in word.split()
        if not is_held_out(part)
    }
)


def make_word(rng: random.Random) -> str:
    """A lower-case word of four to ten letters: made-up syllables, or scraps of other words.

    Scraps make every piece of the vocabulary something that was copied before.
    """
    if rng.random() < 0.4:
        return _join_scraps(rng)
    while True:
        count = rng.choice((1, 2, 2, 2, 3))
        word = "".join(rng.choice(ONSETS) + rng.choice(VOWELS) for _ in range(count))
        word += rng.choice(CODAS) if rng.random() < 0.5 or count == 1 else ""
        if 4 <= len(word) <= 10:
            return word


def _join_scraps(rng: random.Random) -> str:
    word = ""
    while len(word) < 4:
        source = rng.choice(SCRAP_SOURCES) if rng.random() < 0.85 else ALPHABET
        start, length = rng.randrange(len(source)), rng.choice((1, 2, 3, 4))
        word += source[start : start + length]
    return word[:10]


class Fillers:
    """Draws fillers of one half; `used` holds every filler drawn so far, lower-case."""

    def __init__(self, rng: random.Random, held_out: bool = False) -> None:
        self.rng = rng
        self.held_out = held_out
        self.used: set[str] = set()
        self._pools = {
            kind: [word for word in pool if self._fits(word)] for kind, pool in POOLS.items()
        }

    def pick(self, kind: str) -> str:
        """A word of the pool `kind`, or (two times in five) a made-up one."""
        pool = self._pools[kind]
        capital = kind in ("name", "city")
        if pool and self.rng.random() < 0.6:
            return self._note(self.rng.choice(pool))
        return self._draw(lambda: self._made_up(capital))

    def name(self) -> str:
        """A name of a person or animal."""
        return self.pick("name")

    def word(self) -> str:
        """A lower-case everyday or made-up word."""
        return self.pick("thing")

    def number(self, low: int = 0, high: int = 9999) -> str:
        """An integer of `low` to `high`; small ones are as likely as large ones."""
        return self._draw(lambda: str(self._integer(low, high)))

    def decimal(self) -> str:
        """A number with one or two digits behind the point."""
        return self._draw(lambda: f"{self._integer(0, 999)}.{self.rng.choice('123456789')}")

    def words(self, low: int, high: int) -> str:
        """`low` to `high` words joined by spaces."""
        return " ".join(self.word() for _ in range(self.rng.randint(low, high)))

    def time(self) -> str:
        """A time of day such as 7:45 or 19:30."""
        return self._draw(lambda: f"{self.rng.randint(0, 23)}:{self.rng.randint(0, 59):02d}")

    def date(self) -> str:
        """A day and month such as 14 March."""
        return f"{self.number(1, 31)} {self.rng.choice(MONTHS)}"

    def file(self) -> str:
        """A file name, one time in six below a folder."""
        name = f"{self.word()}.{self.rng.choice(EXTENSIONS)}".replace(" ", "_")
        return f"{self.word()}/{name}" if self.rng.random() < 0.17 else name

    def fill(self, kind: str) -> str:
        """A filler of a kind named in a template: a pool, or number, time, date, file."""
        draws: dict[str, Callable[[], str]] = {
            "number": lambda: self.number(2, 9999),
            "time": self.time,
            "date": self.date,
            "file": self.file,
            "word": self.word,
            "words": lambda: self.words(1, 3),
            "full": lambda: f"{self.name()} {self.name()}",
        }
        return draws[kind]() if kind in draws else self.pick(kind)

    def _fits(self, word: str) -> bool:
        return all(is_held_out(part) == self.held_out for part in word.split())

    def _note(self, filler: str) -> str:
        self.used.add(filler.lower())
        return filler

    def _draw(self, draw: Callable[[], str]) -> str:
        for _ in range(400):
            filler = draw()
            if is_held_out(filler) == self.held_out:
                return self._note(filler)
        return self._note(filler)  # a range of single digits holds nothing held out

    def _made_up(self, capital: bool) -> str:
        word = make_word(self.rng)
        return word.capitalize() if capital else word

    def _integer(self, low: int, high: int) -> int:
        digits = self.rng.randint(len(str(max(low, 1))), len(str(high)))
        if self.held_out:
            digits = max(digits, min(2, len(str(high))))
        least, most = max(low, 10 ** (digits - 1)), min(high, 10**digits - 1)
        if digits == 1:
            least = low
        return self.rng.randint(least, most)
