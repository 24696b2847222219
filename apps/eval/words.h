// Words that documents are made of. Adjectives, nouns and places are those that the two small models of this project
// were trained to copy; others are copied less surely, which would measure the vocabulary and not the runtime.
#pragma once
#include <string_view>

namespace longhaul::eval {

inline constexpr std::string_view kAdjectives[] = {
    "acid",  "ancient", "aqua",   "bitter", "bold",  "brave",  "brisk",  "broad",  "calm",   "clever", "crisp",
    "damp",  "deep",    "deft",   "dizzy",  "eager", "fancy",  "faint",  "fresh",  "frosty", "fuzzy",  "gentle",
    "giant", "glad",    "gloomy", "golden", "grand", "gray",   "hollow", "humble", "icy",    "jolly",  "keen",
    "lazy",  "lively",  "lofty",  "lonely", "lucid", "mellow", "mild",   "misty",  "modest", "narrow", "neat",
    "noble", "odd",     "pale",   "plain",  "proud", "quaint", "quick",  "quiet",  "rapid",  "rare",   "rigid",
    "rough", "royal",   "rusty",  "shady",  "sharp", "shiny",  "silent", "sleek",  "slim",   "smooth", "snug",
    "solar", "steep",   "stiff",  "sturdy", "sunny", "swift",  "tame",   "tender", "thin",   "tidy",   "tiny",
    "tough", "vague",   "vast",   "vivid",  "warm",  "wary",   "weary",  "wild",   "windy",  "wise",   "young"};
inline constexpr std::string_view kNouns[] = {
    "acorn",   "anchor", "apron",  "arrow",  "atlas",   "badge",  "barn",   "basin",    "basket", "bell",
    "bench",   "birch",  "boat",   "bottle", "branch",  "brick",  "bridge", "brush",    "bucket", "button",
    "candle",  "canoe",  "carpet", "chain",  "chair",   "chest",  "clock",  "cloud",    "copper", "cottage",
    "cradle",  "creek",  "crown",  "drum",   "feather", "fork",   "fossil", "fountain", "goat",   "harbor",
    "harp",    "helmet", "jacket", "jug",    "kettle",  "ladder", "lake",   "lantern",  "ledge",  "log",
    "magnet",  "map",    "mask",   "meadow", "medal",   "mirror", "needle", "olive",    "orchid", "otter",
    "paddle",  "pail",   "palace", "pebble", "piano",   "pigeon", "pine",   "pitcher",  "plow",   "pond",
    "quilt",   "raft",   "raven",  "ribbon", "ring",    "robin",  "rocket", "saddle",   "sail",   "satchel",
    "scarf",   "shell",  "sleeve", "spark",  "spoon",   "statue", "straw",  "tail",     "torch",  "train",
    "trumpet", "tunnel", "valley", "vase",   "village", "violin", "wagon",  "wheel",    "whistle"};
inline constexpr std::string_view kPlaces[] = {
    "above the stable door",  "among the winter coats",   "at the end of the pier",  "behind the north wall",
    "below the chapel floor", "beneath the walnut tree",  "beside the frozen lake",  "by the ruined mill",
    "in the captain's cabin", "in the merchant's cellar", "inside the broken piano", "inside the clock tower",
    "near the western gate",  "on the highest shelf",     "under the old bridge",    "within the sealed well"};
inline constexpr std::string_view kJoints[] = {"and", "in", "of", "without"};

}  // namespace longhaul::eval
